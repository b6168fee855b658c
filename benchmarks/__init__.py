"""Rates and latencies as ratios against floors and ceilings measured in the same run."""

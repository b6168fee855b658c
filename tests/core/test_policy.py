from entitlements.core.policy import Cost, Limit, Policy


def a_policy(*, unknown_metrics_free: bool = False) -> Policy:
    return Policy(
        version="0" * 64,
        costs={"cj": Cost(credits=1)},
        limits={"starts": (Limit(count=1, window_s=60),)},
        signup_bonuses={},
        unknown_metrics_free=unknown_metrics_free,
    )


def test_metrics_with_a_cost_or_a_limit_are_known() -> None:
    policy = a_policy()

    assert policy.knows("cj")
    assert policy.knows("starts")
    assert not policy.knows("other")


def test_a_free_unknown_metric_stays_unknown() -> None:
    assert not a_policy(unknown_metrics_free=True).knows("other")

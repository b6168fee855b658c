-- One script for every load: `-- KIND WHO RUN TOKEN` after wrk's own arguments.
--   KIND  check | explain | access | consume | hold, each of which is settled by another request
--   WHO   a number N: N users spend from their own wallets; a name: all from that organisation
--   RUN   makes idempotency keys differ between runs
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  kind, run = args[1], args[3]
  org, users = args[2], tonumber(args[2])
  sent = 0
  math.randomseed(number * 7919 + 1)
  if kind == "hold" then
    held = {}
    response = remember
  end
  headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. args[4] }
end

function remember(status, _, body)
  if status == 201 then
    held[#held + 1] = body:match('"hold_id":"([^"]+)"')
  end
end

local function payer()
  if users then
    return '"user_id":"user-' .. math.random(users) .. '"'
  end
  return '"user_id":"teacher","org_id":"' .. org .. '"'
end

local function check(path)
  local body = "{" .. payer() .. ',"requirements":'
    .. '{"cj_comparison":45,"ai_feedback_generation":10,"spellcheck":10},'
    .. '"correlation_id":"batch-1"}'
  return wrk.format("POST", path, headers, body)
end

local function access()
  local body = "{" .. payer() .. ',"entitlement_type":"feature_unlock","feature":"export"}'
  return wrk.format("POST", "/v1/entitlements/check", headers, body)
end

local function consume()
  local name = run .. "-" .. number .. "-" .. sent
  headers["Idempotency-Key"] = name
  local body = "{" .. payer() .. ',"metric":"cj_comparison","amount":1,'
    .. '"batch_id":"batch-1","correlation_id":"' .. name .. '"}'
  return wrk.format("POST", "/v1/entitlements/consume-credits", headers, body)
end

local function hold_or_settle()
  headers["Idempotency-Key"] = run .. "-" .. number .. "-" .. sent
  local path, body = "/v1/entitlements/holds", "{" .. payer() .. ',"requirements":{"cj_comparison":2}}'
  local hold = table.remove(held)
  if hold then
    path, body = path .. "/" .. hold .. "/settle", '{"requirements":{"cj_comparison":1}}'
  end
  return wrk.format("POST", path, headers, body)
end

function request()
  sent = sent + 1
  if held then
    return hold_or_settle()
  end
  if kind == "check" then
    return check("/v1/entitlements/check-credits/bulk")
  elseif kind == "explain" then
    return check("/v1/entitlements/check-credits/bulk?explain=true")
  elseif kind == "access" then
    return access()
  end
  return consume()
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration_us":%d,"refused":%d,"broken":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end

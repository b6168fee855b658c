-- Sliding windows, with the arithmetic of core/windows.py: what is asked, counted and forgotten, in
-- its order, all at one instant.
--
-- KEYS: each window's hash, slice number -> units.
-- ARGV[1], MessagePack: {clock in ms, or 0 for the server's; the seconds of each window;
--   the operations, flat: RECORD window units | LOOK or TAKE count (window limit units)* | RESET window}
-- Answer, MessagePack, flat: for each ask the units used, and the ms until it would pass, -1 for never.

local SLICES, KEPT, COUNT_MAX = 60, 61, 9007199254740991
local RECORD, LOOK, TAKE, RESET = 0, 1, 2, 3

local call = cmsgpack.unpack(ARGV[1])
local now, seconds, ops = call[1], call[2], call[3]
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
end

-- Numbers are doubles here: what is divided is made divisible first, and is always below 2^53.
local function slice_now(k)
    local x, y = now * SLICES, seconds[k] * 1000
    return (x - x % y) / y
end

local function text(number)
    return string.format('%.0f', number)
end

local windows = {}

local function load(k)
    local found = redis.call('HGETALL', KEYS[k])
    local window = {newest = slice_now(k), sum = 0, counts = {}, gone = {}}
    for i = 1, #found, 2 do
        found[i], found[i + 1] = tonumber(found[i]), tonumber(found[i + 1])
        -- A clock that steps back stands still.
        if found[i] > window.newest then window.newest = found[i] end
    end
    for i = 1, #found, 2 do
        if found[i] < window.newest - SLICES then
            window.gone[#window.gone + 1] = text(found[i])
        else
            window.counts[found[i]] = found[i + 1]
            window.sum = window.sum + found[i + 1]
        end
    end
    windows[k] = window
    return window
end

local function add(k, units)
    local window = windows[k] or load(k)
    local before = window.counts[window.newest] or 0
    local after = math.min(before + units, COUNT_MAX)
    window.counts[window.newest] = after
    window.sum = window.sum + after - before
    window.grown = true
end

local function passes_in(k, window, limit, units)
    local excess = window.sum + units - limit
    if excess <= 0 then return 0 end
    if units > limit then return -1 end
    local leaving = window.newest
    for number = window.newest - SLICES, window.newest do
        excess = excess - (window.counts[number] or 0)
        if excess <= 0 then
            leaving = number
            break
        end
    end
    local x = (leaving + KEPT) * seconds[k] * 1000 + SLICES - 1
    return math.max(1, (x - x % SLICES) / SLICES - now)
end

local answer = {}

-- Answers where the next operation is.
local function look(at, taking)
    local first, last = at + 2, at + 1 + 3 * ops[at + 1]
    local passes = true
    for i = first, last, 3 do
        local k = ops[i]
        local window = windows[k] or load(k)
        local ms = passes_in(k, window, ops[i + 1], ops[i + 2])
        answer[#answer + 1] = math.min(window.sum, COUNT_MAX)
        answer[#answer + 1] = ms
        passes = passes and ms == 0
    end
    if taking and passes then
        local taken = {}
        for i = last - 2, first, -3 do
            if not taken[ops[i]] then
                taken[ops[i]] = true
                add(ops[i], ops[i + 2])
            end
        end
    end
    return last + 1
end

local at = 1
while at <= #ops do
    local kind = ops[at]
    if kind == RECORD then
        add(ops[at + 1], ops[at + 2])
        at = at + 3
    elseif kind == RESET then
        local k = ops[at + 1]
        redis.call('DEL', KEYS[k])
        windows[k] = {newest = slice_now(k), sum = 0, counts = {}, gone = {}}
        at = at + 2
    else
        at = look(at, kind == TAKE)
    end
end

for k, window in pairs(windows) do
    if window.grown then
        if #window.gone > 0 then redis.call('HDEL', KEYS[k], unpack(window.gone)) end
        redis.call('HSET', KEYS[k], text(window.newest), text(window.counts[window.newest]))
        redis.call('PEXPIRE', KEYS[k], text(math.ceil(seconds[k] * 1000 * KEPT / SLICES)))
    end
end

return cmsgpack.pack(answer)

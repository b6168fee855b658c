-- Sliding windows with the arithmetic of core/windows.py. The operations (record, look, reset) run in their order, all
-- at one instant.
--
-- KEYS: the hash of each window: slice number -> units, and `sum`, the units of the slices that counted when `newest`
--   was the newest one. So the state of a busy window takes two fields, and only a denial reads all of them.
-- ARGV[1], MessagePack: {clock in ms, or 0 for the server's; the seconds of each window;
--   the operations, flat: RECORD window units | LOOK count (window limit units)* | RESET window}
-- Result, MessagePack, flat: for each ask the units used, and the ms until it passes, -1 for never.

local SLICES, KEPT, COUNT_MAX = 60, 61, 9007199254740991
local RECORD, LOOK, RESET = 0, 1, 2

local call = cmsgpack.unpack(ARGV[1])
local now, seconds, ops = call[1], call[2], call[3]
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
end

-- Numbers are doubles: dividends are made divisible first, and all values are below 2^53.
local function slice_now(k)
    local x, y = now * SLICES, seconds[k] * 1000
    return (x - x % y) / y
end

local function text(number)
    return string.format('%.0f', number)
end

-- Return the units of the slices from first to last, and the slices' names.
local function slices(k, first, last)
    local names = {}
    for number = first, last do names[#names + 1] = text(number) end
    local units = redis.call('HMGET', KEYS[k], unpack(names))
    for i = 1, #names do units[i] = tonumber(units[i] or 0) end
    return units, names
end

local function total(units)
    local sum = 0
    for i = 1, #units do sum = sum + units[i] end
    return sum
end

local windows = {}

local function load(k)
    local window = {newest = slice_now(k), sum = 0}
    local head = redis.call('HMGET', KEYS[k], 'newest', 'sum')
    if head[1] then
        local newest, sum = tonumber(head[1]), tonumber(head[2])
        -- If the clock stepped back, keep the newer time, unless the stored one is too far ahead to be right.
        if newest - window.newest > SLICES then
            newest = window.newest - KEPT
        end
        window.newest = math.max(window.newest, newest)
        window.is_new = window.newest > newest
        local left = math.min(window.newest - KEPT, newest)
        if left == newest then
            window.is_over = true
        else
            window.sum = sum
            if left >= newest - SLICES then
                local units
                units, window.gone = slices(k, newest - SLICES, left)
                window.sum = sum - total(units)
            end
            -- Above COUNT_MAX sums are rounded; recompute them until they are exact again.
            if sum > COUNT_MAX then
                window.sum = total((slices(k, window.newest - SLICES, window.newest)))
            end
        end
    end
    windows[k] = window
    return window
end

-- Return the units of the newest slice, including those counted in this call.
local function newest_units(k, window)
    if not window.units then
        window.units = 0
        if not (window.is_new or window.is_over) then
            window.units = tonumber(redis.call('HGET', KEYS[k], text(window.newest)) or 0)
        end
    end
    return window.units
end

local function add(k, units)
    local window = windows[k] or load(k)
    local before = newest_units(k, window)
    window.units = math.min(before + units, COUNT_MAX)
    window.sum = window.sum + (window.units - before)
    window.is_grown = true
end

local function passes_in(k, window, limit, units)
    local excess = window.sum + units - limit
    if units == 0 or excess <= 0 then return 0 end
    if units > limit then return -1 end
    local leaving = window.newest
    if not window.is_over then
        local older = slices(k, window.newest - SLICES, window.newest - 1)
        for i = 1, SLICES do
            excess = excess - older[i]
            if excess <= 0 then
                leaving = window.newest - KEPT + i
                break
            end
        end
    end
    local x = (leaving + KEPT) * seconds[k] * 1000 + SLICES - 1
    return math.max(1, (x - x % SLICES) / SLICES - now)
end

local answer = {}

-- Append the results; return the index of the next operation.
local function look(at)
    local first, last = at + 2, at + 1 + 3 * ops[at + 1]
    for i = first, last, 3 do
        local k = ops[i]
        local window = windows[k] or load(k)
        answer[#answer + 1] = math.min(window.sum, COUNT_MAX)
        answer[#answer + 1] = passes_in(k, window, ops[i + 1], ops[i + 2])
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
        windows[k] = {newest = slice_now(k), sum = 0, is_over = true}
        at = at + 2
    else
        at = look(at)
    end
end

for k, window in pairs(windows) do
    if window.is_grown then
        if window.is_over then redis.call('DEL', KEYS[k]) end
        if window.gone then redis.call('HDEL', KEYS[k], unpack(window.gone)) end
        redis.call('HSET', KEYS[k], 'newest', text(window.newest), 'sum', text(window.sum),
            text(window.newest), text(window.units))
        redis.call('PEXPIRE', KEYS[k], text(math.ceil(seconds[k] * 1000 * KEPT / SLICES)))
    end
end

return cmsgpack.pack(answer)

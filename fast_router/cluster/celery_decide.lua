-- One routing decision: read the live metrics of all candidates, choose among those that are admissible,
-- reserve, and answer the waiting API process. One call, so nothing can come in between.
--
-- KEYS[1]  the reply list of the API process
-- ARGV[1]  key prefix          ARGV[2] request id         ARGV[3] strategy
-- ARGV[4]  random seed         ARGV[5] reservation, ms    ARGV[6] memory of a request id, ms
-- ARGV[7]  metrics window, ms  ARGV[8] candidates: JSON rows of id, weight, metric, limit, most parallel
--
-- Answers "<request id> G <provider>" (granted) or "<request id> B <ms>" (all busy; ms: when to ask again).
-- Returns granted | again | busy | gone, and the provider.
local prefix, rid = ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local exact = clock[1] * 1000 + clock[2] / 1000
local now = math.floor(exact)

local function answer(text)
    redis.call('RPUSH', KEYS[1], rid .. ' ' .. text)
    redis.call('PEXPIRE', KEYS[1], 60000)
end

-- A redelivered task may not reserve twice: the first answer is repeated. A request that was settled or
-- given up ("-") is nobody's any more.
local known = redis.call('GET', prefix .. ':req:' .. rid)
if known == '-' then
    return {'gone', ''}
elseif known then
    answer('G ' .. string.sub(known, 2))
    return {'again', string.sub(known, 2)}
end

local window = tonumber(ARGV[7])
local FORGET = 0.05 -- of one sample's weight: less is not knowledge any more
local PROBE = 5000  -- ms without an answer after which a provider beyond its quality limit is tried again

local rows = {}
local fastest, first = nil, nil
local soonest = nil
for _, row in ipairs(cjson.decode(ARGV[8])) do
    local id, metric, limit, parallel = row[1], row[3], tonumber(row[4]), tonumber(row[5])
    local load_key, stat_key = prefix .. ':load:' .. id, prefix .. ':stat:' .. id
    redis.call('ZREMRANGEBYSCORE', load_key, '-inf', now)
    local r = {id = id, weight = tonumber(row[2]), in_flight = redis.call('ZCARD', load_key), stat = stat_key, load = load_key}
    local s = redis.call('HMGET', stat_key, 't', 'n', 'e', 'lat', 'latw', 'ttft', 'ttftw', 'tok', 'tokw',
        'g', 'gt', 'q', 'qp', 'qt')
    local at = tonumber(s[1] or now)
    local fade = math.exp(-math.max(0, now - at) / window)
    local function mean(sum, weight)
        weight = tonumber(weight or 0)
        if weight * fade < FORGET then return nil end
        return tonumber(sum) / weight
    end
    r.latency, r.ttft, r.token = mean(s[4], s[5]), mean(s[6], s[7]), mean(s[8], s[9])
    -- One good answer is assumed, so that a single failure is not a rate of 100 %.
    local finished = tonumber(s[2] or 0) * fade
    r.errors = tonumber(s[3] or 0) * fade / (finished + 1)
    -- Grants of the last window: its rate. And how long ago the last one was: who is served longest ago
    -- goes first among equals, so that they take turns and a newcomer gets one turn, not all of them.
    r.grants = tonumber(s[10] or 0) * math.exp(-math.max(0, exact - tonumber(s[11] or exact)) / window)
    r.rested = exact - tonumber(s[11] or 0)
    -- The provider's own queue as somebody saw it, and where it is heading: one that grows is already longer.
    r.waiting = 0
    if s[14] and now - tonumber(s[14]) < window then
        local waiting, before = tonumber(s[12] or 0), tonumber(s[13] or 0)
        r.waiting = waiting + math.max(0, waiting - before)
    end

    local open = not (limit == 0) and not (parallel == 0)
    local room = open and (parallel < 0 or r.in_flight < parallel)
    if metric == 'inflight' and limit > 0 then
        room = room and r.in_flight < limit
    end
    if room and limit > 0 and metric ~= 'inflight' and metric ~= '' then
        local value = r.latency
        if metric == 'ttft' then value = r.ttft elseif metric == 'performance' then value = r.token end
        -- Beyond its limit it rests, but an idle one is tried now and then: else it could never come back.
        room = value == nil or value <= limit or (r.in_flight == 0 and now - at >= PROBE)
    end
    if room then
        rows[#rows + 1] = r
        if r.latency and (not fastest or r.latency < fastest) then fastest = r.latency end
        if r.ttft and (not first or r.ttft < first) then first = r.ttft end
    elseif open and r.latency and r.in_flight > 0 then
        -- With n in flight that take `latency` each, the next one ends after about latency / n.
        local wait = r.latency * 1000 / r.in_flight
        if not soonest or wait < soonest then soonest = wait end
    end
end

if #rows == 0 then
    answer('B ' .. math.floor(soonest or 0))
    return {'busy', ''}
end

local strategy = ARGV[3]
math.randomseed(tonumber(ARGV[4]))
local function relative(value, best)
    -- An unknown provider counts as the best known one, so that it gets its chance.
    if not value or not best or best <= 0 then return 1 end
    return value / best
end
local best, best_cost, best_rest, ties = nil, nil, nil, 0
for _, r in ipairs(rows) do
    local slow = (relative(r.latency, fastest) + relative(r.ttft, first)) / 2
    local ahead = r.in_flight + r.waiting
    local rested = 0
    local cost
    if strategy == 'shuffle' then
        -- The smallest of exponentials with rate w is i with probability w_i / sum.
        cost = -math.log(1 - math.random()) / r.weight
    elseif strategy == 'round_robin' then
        cost, rested = 0, r.rested * r.weight
    elseif strategy == 'least_busy' then
        cost = ahead / r.weight
    elseif strategy == 'latency_based' then
        cost = slow
    else
        -- Expected wait: what is ahead of the request, times how slow it goes, times how often it must be repeated.
        cost, rested = (ahead + 1) / r.weight * slow / (1 - math.min(r.errors, 0.95)), r.rested * r.weight
    end
    local equal = best and math.abs(cost - best_cost) <= 1e-9 * math.max(cost, best_cost, 1e-12)
    if not best or (not equal and cost < best_cost) or (equal and rested > best_rest) then
        best, best_cost, best_rest, ties = r, cost, rested, 1
    elseif equal and rested == best_rest then
        ties = ties + 1
        if math.random() * ties < 1 then best = r end
    end
end

local ttl = tonumber(ARGV[5])
redis.call('ZADD', best.load, now + ttl, rid)
redis.call('PEXPIRE', best.load, ttl * 4)
redis.call('SET', prefix .. ':req:' .. rid, '=' .. best.id, 'PX', ARGV[6])
redis.call('HSET', best.stat, 'g', tostring(best.grants + 1), 'gt', string.format('%.3f', exact))
redis.call('PEXPIRE', best.stat, 3600000)
answer('G ' .. best.id)
return {'granted', best.id}

-- Routing decisions: read the live metrics of all candidates, choose among those that are admissible, reserve, and
-- answer the waiting API process. One call, so nothing can come in between; the requests of one task share it, and
-- with it what was read of each provider.
--
-- KEYS[1]  the reply list of the API process
-- ARGV[1]  key prefix               ARGV[2] random seed       ARGV[3] reservation, ms
-- ARGV[4]  memory of a request id, ms                         ARGV[5] metrics window, ms
-- ARGV[6…] for each request three: its id, the strategy, the candidates (JSON rows of id, weight, metric, limit,
--          most parallel)
--
-- Answers "<request id> G <provider>" (granted) or "<request id> B <ms>" (all busy; ms: when to ask again).
-- Returns for each request: granted | again | busy | gone, and the provider.
local prefix, ttl, memory, window = ARGV[1], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local clock = redis.call('TIME')
local exact = clock[1] * 1000 + clock[2] / 1000
local now = math.floor(exact)
math.randomseed(tonumber(ARGV[2]))

local FORGET = 0.05 -- of one sample's weight: less is not knowledge any more
local PROBE = 5000  -- ms without an answer after which a provider beyond its quality limit is tried again

local providers = {}
local function provider_of(id)
    local p = providers[id]
    if p then return p end
    p = {load = prefix .. ':load:' .. id, stat = prefix .. ':stat:' .. id, taken = {}}
    -- What has lapsed does not count; it is cleared away when the next reservation is written.
    p.in_flight = redis.call('ZCOUNT', p.load, '(' .. now, '+inf')
    local s = redis.call('HMGET', p.stat, 't', 'n', 'e', 'lat', 'latw', 'ttft', 'ttftw', 'tok', 'tokw',
        'g', 'gt', 'q', 'qp', 'qt')
    p.at = tonumber(s[1] or now)
    local fade = math.exp(-math.max(0, now - p.at) / window)
    local function mean(sum, weight)
        weight = tonumber(weight or 0)
        if weight * fade < FORGET then return nil end
        return tonumber(sum) / weight
    end
    p.latency, p.ttft, p.token = mean(s[4], s[5]), mean(s[6], s[7]), mean(s[8], s[9])
    -- One good answer is assumed, so that a single failure is not a rate of 100 %.
    local finished = tonumber(s[2] or 0) * fade
    p.errors = tonumber(s[3] or 0) * fade / (finished + 1)
    -- Grants of the last window: its rate. And when the last one was: who is served longest ago goes first
    -- among equals, so that they take turns and a newcomer gets one turn, not all of them.
    p.grants = tonumber(s[10] or 0) * math.exp(-math.max(0, exact - tonumber(s[11] or exact)) / window)
    p.granted = tonumber(s[11] or 0)
    -- The provider's own queue as somebody saw it, and where it is heading: one that grows is already longer.
    p.waiting = 0
    if s[14] and now - tonumber(s[14]) < window then
        local waiting, before = tonumber(s[12] or 0), tonumber(s[13] or 0)
        p.waiting = waiting + math.max(0, waiting - before)
    end
    providers[id] = p
    return p
end

local function relative(value, best)
    -- An unknown provider counts as the best known one, so that it gets its chance.
    if not value or not best or best <= 0 then return 1 end
    return value / best
end

-- The provider for one request and its id; else nil and the ms after which one may be free.
local function choose(candidates, strategy)
    local rows, fastest, first, soonest = {}, nil, nil, nil
    for _, row in ipairs(candidates) do
        local metric, limit, parallel = row[3], tonumber(row[4]), tonumber(row[5])
        local p = provider_of(row[1])
        local open = not (limit == 0) and not (parallel == 0)
        local room = open and (parallel < 0 or p.in_flight < parallel)
        if metric == 'inflight' and limit > 0 then
            room = room and p.in_flight < limit
        end
        if room and limit > 0 and metric ~= 'inflight' and metric ~= '' then
            local value = p.latency
            if metric == 'ttft' then value = p.ttft elseif metric == 'performance' then value = p.token end
            -- Beyond its limit it rests, but an idle one is tried now and then: else it could never come back.
            room = value == nil or value <= limit or (p.in_flight == 0 and now - p.at >= PROBE)
        end
        if room then
            rows[#rows + 1] = row
            if p.latency and (not fastest or p.latency < fastest) then fastest = p.latency end
            if p.ttft and (not first or p.ttft < first) then first = p.ttft end
        elseif open and p.latency and p.in_flight > 0 then
            -- With n in flight that take `latency` each, the next one ends after about latency / n.
            local wait = p.latency * 1000 / p.in_flight
            if not soonest or wait < soonest then soonest = wait end
        end
    end
    local best, best_cost, best_rest, ties = nil, nil, nil, 0
    for _, row in ipairs(rows) do
        local p, weight = provider_of(row[1]), tonumber(row[2])
        local slow = (relative(p.latency, fastest) + relative(p.ttft, first)) / 2
        local ahead = p.in_flight + p.waiting
        local rested = 0
        local cost
        if strategy == 'shuffle' then
            -- The smallest of exponentials with rate w is i with probability w_i / sum.
            cost = -math.log(1 - math.random()) / weight
        elseif strategy == 'round_robin' then
            cost, rested = 0, (exact - p.granted) * weight
        elseif strategy == 'least_busy' then
            cost = ahead / weight
        elseif strategy == 'latency_based' then
            cost = slow
        else
            -- Expected wait: what is ahead of the request, times how slow it goes, times how often it is repeated.
            cost = (ahead + 1) / weight * slow / (1 - math.min(p.errors, 0.95))
            rested = (exact - p.granted) * weight
        end
        local equal = best and math.abs(cost - best_cost) <= 1e-9 * math.max(cost, best_cost, 1e-12)
        if not best or (not equal and cost < best_cost) or (equal and rested > best_rest) then
            best, best_cost, best_rest, ties = row[1], cost, rested, 1
        elseif equal and rested == best_rest then
            ties = ties + 1
            if math.random() * ties < 1 then best = row[1] end
        end
    end
    return best, soonest
end

local rids, names = {}, {}
for i = 6, #ARGV, 3 do
    rids[#rids + 1] = ARGV[i]
    names[#names + 1] = prefix .. ':req:' .. ARGV[i]
end
local known = redis.call('MGET', unpack(names))
local lists, answers, results, granted = {}, {}, {}, {}
for n, rid in ipairs(rids) do
    local holder = granted[rid] or known[n]
    if holder == '-' then
        -- A request that was settled or given up is nobody's any more.
        results[n] = {'gone', ''}
    elseif holder then
        -- A redelivered task may not reserve twice: the first answer is repeated.
        local id = string.sub(holder, 2)
        answers[#answers + 1] = rid .. ' G ' .. id
        results[n] = {'again', id}
    else
        local text = ARGV[5 + 3 * n]
        local list = lists[text]
        if not list then
            list = cjson.decode(text)
            lists[text] = list
        end
        local id, soonest = choose(list, ARGV[4 + 3 * n])
        if id then
            local p = providers[id]
            p.in_flight = p.in_flight + 1
            p.grants = p.grants + 1
            p.granted = exact
            p.taken[#p.taken + 1] = now + ttl
            p.taken[#p.taken + 1] = rid
            granted[rid] = '=' .. id
            answers[#answers + 1] = rid .. ' G ' .. id
            results[n] = {'granted', id}
            -- So that requests of one call take turns like any others.
            exact = exact + 0.001
        else
            answers[#answers + 1] = rid .. ' B ' .. math.floor(soonest or 0)
            results[n] = {'busy', ''}
        end
    end
end

-- Everything that may be refused was read by now: what is written is written as a whole.
for _, p in pairs(providers) do
    if #p.taken > 0 then
        redis.call('ZREMRANGEBYSCORE', p.load, '-inf', now)
        redis.call('ZADD', p.load, unpack(p.taken))
        redis.call('PEXPIRE', p.load, ttl * 4)
        redis.call('HSET', p.stat, 'g', tostring(p.grants), 'gt', string.format('%.3f', p.granted))
        redis.call('PEXPIRE', p.stat, 3600000)
    end
end
for rid, holder in pairs(granted) do
    redis.call('SET', prefix .. ':req:' .. rid, holder, 'PX', memory)
end
if #answers > 0 then
    redis.call('RPUSH', KEYS[1], unpack(answers))
    redis.call('PEXPIRE', KEYS[1], 60000)
end
return results

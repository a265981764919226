-- The heartbeat of an API process: what it still works on stays reserved. Also how a request that was
-- picked locally becomes visible to the workers.
--
-- ARGV[1] key prefix   ARGV[2] reservation, ms   ARGV[3] memory of a request id, ms
-- ARGV[4] JSON rows of: request id, provider
-- Returns how many of them hold a slot now.
local prefix = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ttl = tonumber(ARGV[2])
local held = 0
for _, row in ipairs(cjson.decode(ARGV[4])) do
    local rid, provider = row[1], row[2]
    local key = prefix .. ':req:' .. rid
    -- A heartbeat that was overtaken by its own end may not bring the reservation back.
    if redis.call('GET', key) ~= '-' then
        redis.call('SET', key, '=' .. provider, 'PX', ARGV[3])
        redis.call('ZADD', prefix .. ':load:' .. provider, now + ttl, rid)
        redis.call('PEXPIRE', prefix .. ':load:' .. provider, ttl * 4)
        held = held + 1
    end
end
return held

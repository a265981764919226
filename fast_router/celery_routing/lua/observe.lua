-- How many requests wait in the providers' own queues, as somebody has just seen it.
--
-- ARGV[1] key prefix   ARGV[2] JSON rows of: provider, waiting
-- What was seen before is kept beside it, smoothed over about two seconds, to see where the queue is heading:
-- however many processes look, and however often, growth stays visible for that long.
local prefix = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local SMOOTH = 2000
for _, row in ipairs(cjson.decode(ARGV[2])) do
    local key, waiting = prefix .. ':stat:' .. row[1], tonumber(row[2])
    local s = redis.call('HMGET', key, 'q', 'qp', 'qt')
    local last = tonumber(s[1] or waiting)
    local before = tonumber(s[2] or last)
    local passed = math.max(0, now - tonumber(s[3] or now))
    before = before + (last - before) * (1 - math.exp(-passed / SMOOTH))
    redis.call('HSET', key, 'q', tostring(waiting), 'qp', tostring(before), 'qt', now)
    redis.call('PEXPIRE', key, 3600000)
end
return now

-- Count tokens that were used and not reserved, in the minute in which they became known.
--
-- KEYS   usage hash
-- ARGV   tokens, now (ms; '' = the server's clock)
-- Returns the tokens of the minute
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local minute = math.floor(now / 60000)
local known = redis.call('HMGET', KEYS[1], 'm', 'r', 't')
local requests, used = 0, 0
if tonumber(known[1]) == minute then
  requests, used = tonumber(known[2]) or 0, tonumber(known[3]) or 0
end
used = used + tonumber(ARGV[1])
redis.call('HSET', KEYS[1], 'm', minute, 'r', requests, 't', used)
redis.call('PEXPIRE', KEYS[1], 120000)
return tostring(used)

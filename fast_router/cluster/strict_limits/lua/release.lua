-- Give a slot back, and the tokens that were reserved for it (what was really used is counted by spend.lua).
-- Only the first release of a reservation counts.
--
-- KEYS   usage hash, slot set
-- ARGV   reservation, minute of the admission, tokens reserved, now (ms; '' = the server's clock)
-- Returns 1 if it was released now, 0 if it was before (or ran out)
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then
  return 0
end
local reserved = tonumber(ARGV[3])
if reserved > 0 then
  local now = tonumber(ARGV[4])
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  local known = redis.call('HMGET', KEYS[1], 'm', 't')
  -- The reservation of a minute that is over has gone with it.
  if tonumber(known[1]) == tonumber(ARGV[2]) and math.floor(now / 60000) == tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], 't', math.max(0, (tonumber(known[2]) or 0) - reserved))
  end
end
return 1

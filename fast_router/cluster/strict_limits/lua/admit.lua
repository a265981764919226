-- Admit one request to the first candidate that has room for it: all its limits or none.
-- A refused request consumes nothing; one that was admitted before gets the same answer again.
--
-- KEYS   usage hash (m: minute, r: requests, t: tokens) of each candidate, then slot set of each candidate
-- ARGV   reservation, lifetime of a slot (ms), tokens, now (ms; '' = the server's clock),
--        then rpm, tpm, parallel of each candidate (-1 = no limit)
-- Returns {place of the candidate from 1, minute} or {0, ms until a minute's limit may have room, 0 if unknown}
local count = #KEYS / 2
local reservation, lifetime, tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local minute = math.floor(now / 60000)

for i = 1, count do
  local score = redis.call('ZSCORE', KEYS[count + i], reservation)
  if score and tonumber(score) > now then
    return {i, minute}
  end
end

local wait = -1
for i = 1, count do
  local usage, slots = KEYS[i], KEYS[count + i]
  local rpm, tpm, parallel = tonumber(ARGV[3 * i + 2]), tonumber(ARGV[3 * i + 3]), tonumber(ARGV[3 * i + 4])
  local known = redis.call('HMGET', usage, 'm', 'r', 't')
  local requests, used = 0, 0
  if tonumber(known[1]) == minute then
    requests, used = tonumber(known[2]) or 0, tonumber(known[3]) or 0
  end
  redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
  local spent = (rpm >= 0 and requests + 1 > rpm) or (tpm >= 0 and used + math.max(tokens, 1) > tpm)
  if not spent and (parallel < 0 or redis.call('ZCARD', slots) + 1 <= parallel) then
    redis.call('HSET', usage, 'm', minute, 'r', requests + 1, 't', used + tokens)
    redis.call('PEXPIRE', usage, 120000)
    redis.call('ZADD', slots, now + lifetime, reservation)
    redis.call('PEXPIRE', slots, math.max(lifetime, 1000) * 2)
    return {i, minute}
  end
  local until_room = spent and (minute + 1) * 60000 - now or 0
  if wait < 0 or until_room < wait then
    wait = until_room
  end
end
return {0, math.max(wait, 0)}

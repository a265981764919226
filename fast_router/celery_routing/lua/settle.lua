-- The end of requests, exactly once each: the reservation goes, what was measured is folded in.
--
-- ARGV[1] key prefix   ARGV[2] memory of a request id, ms   ARGV[3] metrics window, ms
-- ARGV[4] JSON rows of: request id, provider ("" if none was heard of), outcome, latency, first token,
--         seconds per token; the times in seconds, -1 for unknown. outcome: ok | error | drop (not measured:
--         cancelled, or given up before an answer came)
-- Returns how many of them were still open.
local prefix = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local window = tonumber(ARGV[3])
local open = 0

for _, row in ipairs(cjson.decode(ARGV[4])) do
    local rid, provider, outcome = row[1], row[2], row[3]
    local key = prefix .. ':req:' .. rid
    local known = redis.call('GET', key)
    if known ~= '-' then
        if known then provider = string.sub(known, 2) end
        -- Kept for as long as a copy of the task may still come along and ask.
        redis.call('SET', key, '-', 'PX', ARGV[2])
        if provider ~= '' then
            open = open + 1
            redis.call('ZREM', prefix .. ':load:' .. provider, rid)
            if outcome ~= 'drop' then
                local stat = prefix .. ':stat:' .. provider
                local s = redis.call('HMGET', stat, 't', 'n', 'e', 'lat', 'latw', 'ttft', 'ttftw', 'tok', 'tokw')
                local fade = math.exp(-math.max(0, now - tonumber(s[1] or now)) / window)
                local v = {}
                for i = 2, 9 do v[i] = tonumber(s[i] or 0) * fade end
                v[2] = v[2] + 1
                if outcome == 'error' then
                    v[3] = v[3] + 1
                else
                    -- The time of a failure says nothing about how fast the provider answers.
                    for i = 4, 6 do
                        local sample = tonumber(row[i])
                        if sample >= 0 then
                            v[2 * i - 4] = v[2 * i - 4] + sample
                            v[2 * i - 3] = v[2 * i - 3] + 1
                        end
                    end
                end
                redis.call('HSET', stat, 't', now, 'n', tostring(v[2]), 'e', tostring(v[3]),
                    'lat', tostring(v[4]), 'latw', tostring(v[5]), 'ttft', tostring(v[6]), 'ttftw', tostring(v[7]),
                    'tok', tostring(v[8]), 'tokw', tostring(v[9]))
                redis.call('PEXPIRE', stat, 3600000)
            end
        end
    end
end
return open

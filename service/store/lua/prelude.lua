-- Stands before every script. KEYS are sessions; ARGV[1] is the caller's tag; ARGV[1 + k] is the packed item of KEYS[k].
-- The answer is {tag, result of each item}. An error of one item is that item's result: its neighbours go on.
-- Steps, epochs and counts are decimal strings: Lua would print 2^53-1 as 9.0e+15.
-- Redis runs nothing else meanwhile: what each item needs is looked up once, and text that many need is made once.

local call, pcall, find, format = redis.call, pcall, string.find, string.format

local function each(act)
  local answer = { ARGV[1] }
  for k = 1, #KEYS do
    local ok, result = pcall(act, KEYS[k], ARGV[k + 1])
    if not ok then
      local text = type(result) == 'table' and result.err or tostring(result)
      result = 'ERROR ' .. (string.match(text, '^%-?(%u+)') or 'SCRIPT')
    end
    answer[k + 1] = result
  end
  return answer
end

-- '%d' is the quicker one, and good for a C long, which may have 32 bits.
local function decimal(number)
  return format(number < 2 ^ 31 and '%d' or '%.0f', number)
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The time in so many milliseconds, as text.
local times = {}
local function at(milliseconds)
  local text = times[milliseconds]
  if not text then
    text = decimal(now + milliseconds)
    times[milliseconds] = text
  end
  return text
end

-- Steps, epochs and counts are below: beyond it a double counts no more.
local LIMIT = 2 ^ 53

-- Never used twice, whatever the store forgot: above the last one and above every epoch granted before now.
local function new_epoch(e)
  local epoch = math.max((tonumber(e) or 0) + 1, time[1] * 1000000 + time[2])
  if epoch >= LIMIT then
    error({ err = 'CORRUPT' })
  end
  return decimal(epoch)
end

local function is_closed(f)
  return f and find(f, 'c', 1, true)
end

-- nil for the current claim, otherwise what the caller is told. Equality: after a failover two owners can hold one epoch.
-- The owner of another life of the id is fenced like any other: p says who came first, also when a failover brought an
-- earlier life back.
local function fence(k, i, e, o)
  if k.i ~= i or k.e ~= e or k.o ~= o then
    return 'FENCED ' .. k.e .. ' ' .. k.p
  end
end

-- Refreshes the time to live; 0 leaves it to the millisecond as it is, and is a write all the same. It needs no memory: a
-- write after it is allowed when memory is full. A time that has come would delete the key amid the script, and the HSET
-- behind it would make another one: so there is always a moment left.
local MOMENT = 100
local function keep(key, ttl)
  if ttl > 0 then
    call('PEXPIREAT', key, at(ttl))
  else
    local expires = call('PEXPIRETIME', key)
    if expires > 0 then
      call('PEXPIREAT', key, decimal(math.max(expires, now + MOMENT)))
    end
  end
end

-- True for a number as `decimal` writes it; a field that is not there is none.
local function is_number(value)
  return value == '0'
    or value and find(value, '^[1-9]%d*$') and (#value < 16 or #value == 16 and tonumber(value) < LIMIT)
end

-- True for a value that this protocol may have written: 16 bytes, a number, or, of other fields, anything.
local function sound(name, value)
  if name == 'i' or name == 'h' then
    return #value == 16
  elseif find('encplu', name, 1, true) then
    return is_number(value)
  end
  return true
end

-- The fields of a session by name, or nil. A hash that this protocol did not write is refused before it is written to.
local function read(key, ...)
  local values = call('HMGET', key, ...)
  if not values[1] and call('EXISTS', key) == 0 then
    return nil
  end
  local k = {}
  for index, name in ipairs({ ... }) do
    k[name] = values[index] or ''
    if not sound(name, k[name]) then
      error({ err = 'CORRUPT' })
    end
  end
  return k
end

-- Why the claim (i, e, o) may not write to k; nil when it may. CLOSED is taken for success by who closes: it writes, so
-- that a WAIT after it covers the close.
local function refusal(key, k, i, e, o)
  if not k then
    return 'GONE'
  elseif k.i == i and is_closed(k.f) then
    keep(key, 0)
    return 'CLOSED ' .. k.n
  end
  return fence(k, i, e, o)
end

-- Bytes of a ring record before its reply. A shorter one is damaged: its reply is lost, the session is not.
local RECORD_HEAD = 48

-- Drops what a closed session no longer needs: its state, its options, and all records but the last, whose step or
-- close may be asked again.
local function drop_payload(key)
  local fields = call('HKEYS', key)
  local last = nil
  for _, name in ipairs(fields) do
    local record = string.match(name, '^r%d+$')
    if name == 's' or name == 'x' then
      call('HDEL', key, name)
    elseif record then
      local body = call('HGET', key, name)
      local step = #body >= RECORD_HEAD and select(2, struct.unpack('<I8I8', body)) or 0
      if not last or step > last.step then
        if last then
          call('HDEL', key, last.name)
        end
        last = { name = name, step = step }
      else
        call('HDEL', key, name)
      end
    end
  end
end

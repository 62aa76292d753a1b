-- claim: makes the caller's nonce the one owner of a session, creating it where its mode allows. All checks come before
-- any change: a claim answered with anything but OK has changed nothing.
-- {OK, created | resumed | displaced, e, p, i, m, n, h, c, f, x, s, ring...} or {refusal, e, n, h, detail}
-- Refusals: UNKNOWN MISSING STALE_OPEN CLOSED EXISTS INCARNATION MODEL_CHANGED MODEL_NOT_HERE LINEAGE TOO_OLD REGRESSED BUSY

local CREATE, RESUME, RESTART = 1, 2, 4

local function ring_of(key, ring)
  local names = {}
  for slot = 1, ring do
    names[slot] = 'r' .. (slot - 1)
  end
  return call('HMGET', key, unpack(names))
end

-- h of a step, from the checkpoint or the ring; nil when the ring no longer has it.
local function known(k, records, step)
  if step == tonumber(k.n) then
    return k.h
  end
  for slot = 1, #records do
    if records[slot] and #records[slot] >= RECORD_HEAD then
      local first, last, h_before, h_after = struct.unpack('<I8I8c16c16', records[slot])
      if last == step then
        return h_after
      elseif first - 1 == step then
        return h_before
      end
    end
  end
end

-- Compares the caller's resume point with what is stored; nil when the caller may go on from there.
local function lineage(k, records, step, h, durable, accept_step, accept_h, skip_lost, undurable)
  local n = tonumber(k.n)
  local stored = known(k, records, step)
  if stored and stored ~= h then
    return 'LINEAGE'
  end
  if not stored and step < n and not skip_lost then
    return 'TOO_OLD'
  end
  if n < durable then
    if accept_step ~= k.n or accept_h ~= k.h then
      return 'REGRESSED'
    end
  elseif n < step then
    for at = 1, #undurable, 24 do
      local told, told_h = struct.unpack('<I8c16', undurable, at)
      if told == n and told_h ~= k.h then
        return 'LINEAGE'
      end
    end
  end
end

return each(function(key, item)
  local mode, i, o, name, version, digest, asked_version, served, x, h0, s0, f, ttl, lease, max_lease, ring, found, has_point, step, h,
    durable, named, accept_step, accept_h, skip_lost, undurable =
    struct.unpack('<BBc0c16Bc0Bc0Bc0Bc0I4c0I4c0c16I4c0Bc0I4I4I4I2Bc0BBc0Bc0Bc0Bc0Bc0Bc0BI4c0', item)
  step, durable = tonumber(step), tonumber(durable)
  local k = read(key, 'i', 'e', 'o', 'p', 'n', 'h', 'c', 'f', 'm', 'l', 'x', 's')

  local function refuse(why, detail)
    return { why, k and k.e or '0', k and k.n or '0', k and k.h or '', detail or '' }
  end

  local function granted(how)
    k = read(key, 'i', 'e', 'o', 'p', 'n', 'h', 'c', 'f', 'm', 'x', 's')
    local answer = { 'OK', how, k.e, k.p, k.i, k.m, k.n, k.h, k.c, k.f, k.x, k.s }
    for _, record in ipairs(ring_of(key, ring)) do
      if record then
        answer[#answer + 1] = record
      end
    end
    return answer
  end

  local function create()
    local e = new_epoch(k and k.e)
    local displaced = k and k.e or '0'
    if k then
      call('DEL', key)
    end
    call('HSET', key, 'i', i, 'e', e, 'o', o, 'p', displaced, 'n', '0', 'h', h0, 's', s0, 'c', '0', 'x', x,
      'm', name .. '/' .. version .. '/' .. digest, 'l', at(lease), 'f', f, 'u', at(0))
    call('PEXPIREAT', key, at(ttl))
    return granted('created')
  end

  local knows_steps = has_point == 1 and (step > 0 or durable > 0)
  if not k then
    if knows_steps or mode == RESUME and found ~= '0' then
      return refuse('MISSING')
    elseif mode == RESUME then
      return refuse('UNKNOWN')
    elseif found ~= '0' then
      return refuse('STALE_OPEN')
    end
    return create()
  end

  if is_closed(k.f) then
    if i == k.i or mode == RESUME or knows_steps then
      keep(key, 0) -- so that a WAIT after it covers the close
      return refuse(named ~= '' and named ~= k.i and 'INCARNATION' or 'CLOSED')
    elseif found ~= k.e then
      return refuse('STALE_OPEN')
    end
    return create()
  end

  local holder = i == k.i
  if mode == RESTART and not holder then
    if found ~= k.e then
      return refuse('STALE_OPEN')
    end
    return create()
  end
  if not holder and i ~= '' and mode == CREATE then
    return refuse('EXISTS')
  elseif not holder and i ~= '' and mode == RESUME then
    return refuse('UNKNOWN')
  elseif named ~= '' and named ~= k.i then
    return refuse('INCARNATION')
  end

  local its_name, its_version = string.match(k.m, '^([^/%c]+)/([^/%c]+)/[^/%c]+$')
  if not its_name then
    error({ err = 'CORRUPT' })
  end
  if name ~= '' and name ~= its_name or asked_version ~= '' and asked_version ~= its_version then
    return refuse('MODEL_CHANGED', k.m)
  end
  if not string.find(served, '\n' .. k.m .. '\n', 1, true) then
    if string.find(served, '\n' .. its_name .. '/' .. its_version .. '/', 1, true) then
      return refuse('MODEL_CHANGED', k.m)
    end
    return refuse('MODEL_NOT_HERE', k.m)
  end

  if has_point == 1 then
    local broken =
      lineage(k, ring_of(key, ring), step, h, durable, accept_step, accept_h, skip_lost == 1, undurable)
    if broken then
      return refuse(broken)
    end
  end

  if k.o == o then
    keep(key, ttl)
    return granted('resumed')
  end
  -- A lease further ahead than the longest one was written under another clock: it counts as lapsed.
  local left = tonumber(k.l) - now
  local leased = left > 0 and left <= max_lease
  if leased and not holder then
    return refuse('BUSY', decimal(left))
  end
  if found ~= k.e then
    return refuse('STALE_OPEN')
  end
  local e = new_epoch(k.e)
  keep(key, ttl)
  call('HSET', key, 'e', e, 'o', o, 'p', k.e, 'l', at(lease), 'u', at(0))
  return granted(leased and 'displaced' or 'resumed')
end)

-- commit: only the current claim may write, and only onto the step and digest that it computed from. A commit of many
-- messages puts each one's record into the ring.
-- OK n | DUPLICATE n (it is there already) | FENCED e p | MISMATCH n | CLOSED n | GONE | ERROR code
-- It never creates a key. Every accepting path writes (PEXPIRE), so that a WAIT after it covers it. A lease that was
-- released stays so: a late copy would hold it for nobody.

return each(function(key, item)
  local i, o, h_from, h_to, e, n_from, n_to, ttl, lease, ring, state, records, at =
    struct.unpack('<c16c16c16c16Bc0Bc0Bc0I4I4I2I4c0I2', item)
  local k = read(key, 'i', 'e', 'o', 'p', 'n', 'h', 'c', 'f', 'l')
  local refused = refusal(key, k, i, e, o)
  if refused then
    return refused
  end
  if k.n == n_to and k.h == h_to then
    redis.call('PEXPIRE', key, ttl)
    return 'DUPLICATE ' .. n_to
  end
  if k.n ~= n_from or k.h ~= h_from then
    return 'MISMATCH ' .. k.n
  end
  local count = tonumber(k.c)
  local deadline = lease > 0 and k.l ~= '0' and decimal(now + lease) or '0'
  local fields = { 'n', n_to, 'h', h_to, 's', state, 'c', decimal(count + records), 'l', deadline, 'u', decimal(now) }
  for message = count, count + records - 1 do
    fields[#fields + 1] = 'r' .. message % ring
    fields[#fields + 1], at = struct.unpack('<I4c0', item, at)
  end
  redis.call('HSET', key, unpack(fields))
  redis.call('PEXPIRE', key, ttl)
  return 'OK ' .. n_to
end)

-- commit: only the current claim may write, and only onto the step and digest that it computed from.
-- OK n | DUPLICATE n (it is there already) | FENCED e p | MISMATCH n | CLOSED n | GONE | ERROR code
-- It never creates a key. Every accepting path writes (PEXPIRE), so that a WAIT after it covers it.

return each(function(key, item)
  local i, o, h_from, h_to, e, n_from, n_to, ttl, lease, ring, state, record =
    struct.unpack('<c16c16c16c16Bc0Bc0Bc0I4I4I2I4c0I4c0', item)
  local k = read(key, 'i', 'e', 'o', 'p', 'n', 'h', 'c', 'f')
  local refused = refusal(k, i, e, o)
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
  local deadline = lease > 0 and decimal(now + lease) or '0'
  redis.call('HSET', key, 'n', n_to, 'h', h_to, 's', state, 'r' .. count % ring, record, 'c', decimal(count + 1),
    'l', deadline, 'u', decimal(now))
  redis.call('PEXPIRE', key, ttl)
  return 'OK ' .. n_to
end)

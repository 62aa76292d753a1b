-- commit: only the current claim may write, and only onto the step and digest that it computed from. A commit of many
-- messages puts each one's record into the ring.
-- OK n | DUPLICATE n (it is there already) | FENCED e p | MISMATCH n | CLOSED n | GONE | ERROR code
-- It never creates a key. Every accepting path writes, so that a WAIT after it covers it. A lease that was released stays
-- so: a late copy would hold it for nobody. A time to live of 0 leaves the expiry where it is, which costs less.
-- Behind the items stand each commit's state and records: cut out of an item they would be copied and hashed again.

local unpack, unpack_item = unpack, struct.unpack
local blobs = 1 + #KEYS

-- What a commit is told that does not fit onto what is stored.
local function refused(key, i, o, e, n_to, h_to, ttl)
  local k = read(key, 'i', 'e', 'o', 'p', 'n', 'h', 'c', 'f', 'l')
  local why = refusal(key, k, i, e, o)
  if why then
    return why
  end
  if k.n == n_to and k.h == h_to then
    keep(key, ttl)
    return 'DUPLICATE ' .. n_to
  end
  return 'MISMATCH ' .. k.n
end

return each(function(key, item)
  local i, o, h_from, h_to, ttl, lease, ring, records, e, n_from, n_to =
    unpack_item('<c16c16c16c16I4I4I2I2Bc0Bc0Bc0', item)
  local state = blobs + 1
  blobs = state + records
  local its_i, its_e, its_o, n, h, c, l, f = unpack(call('HMGET', key, 'i', 'e', 'o', 'n', 'h', 'c', 'l', 'f'))
  -- What equals the caller's own is sound; only the rest is looked at.
  local owned = its_i == i and its_e == e and its_o == o and not is_closed(f)
  local fits = n == n_from and h == h_from and is_number(c) and is_number(l)
  if not owned or not fits then
    return refused(key, i, o, e, n_to, h_to, ttl)
  end
  local count = c + 0
  if count + records >= LIMIT then
    error({ err = 'CORRUPT' })
  end
  local written = { format('r%d', count % ring), ARGV[state + 1] }
  for message = 1, records - 1 do
    written[#written + 1] = format('r%d', (count + message) % ring)
    written[#written + 1] = ARGV[state + 1 + message]
  end
  call('HSET', key, 'n', n_to, 'h', h_to, 's', ARGV[state], 'c', decimal(count + records),
    'l', lease > 0 and l ~= '0' and at(lease) or '0', 'u', at(0), unpack(written))
  if ttl > 0 then
    call('PEXPIREAT', key, at(ttl))
  end
  return 'OK ' .. n_to
end)

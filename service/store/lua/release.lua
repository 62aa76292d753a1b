-- release: the current claim lets the next one in at once. Fenced like every write: a late copy frees nobody's lease.
-- OK | FENCED e p | CLOSED n | GONE | ERROR code

return each(function(key, item)
  local i, o, e, ttl = struct.unpack('<c16c16Bc0I4', item)
  local refused = refusal(key, read(key, 'i', 'e', 'o', 'p', 'n', 'f'), i, e, o)
  if refused then
    return refused
  end
  keep(key, ttl)
  call('HSET', key, 'l', '0', 'u', at(0))
  return 'OK'
end)

-- close: ends a session at the step that its client names and leaves a tombstone, so that nothing late revives it.
-- OK n | DUPLICATE n (this claim closed it) | GAP n | CONFLICT n | FENCED e p | CLOSED n | GONE | ERROR code
-- The payload goes first: HDEL frees memory, and after it the HSET is allowed even when memory is full.

return each(function(key, item)
  local i, o, e, n, tombstone = struct.unpack('<c16c16Bc0Bc0I4', item)
  local k = read(key, 'i', 'e', 'o', 'p', 'n', 'c', 'f')
  if k and is_closed(k.f) and not fence(k, i, e, o) then
    call('PEXPIREAT', key, at(tombstone))
    return 'DUPLICATE ' .. k.n
  end
  local refused = refusal(key, k, i, e, o)
  if refused then
    return refused
  end
  if tonumber(n) > tonumber(k.n) then
    return 'GAP ' .. k.n
  elseif n ~= k.n then
    return 'CONFLICT ' .. k.n
  end
  drop_payload(key)
  call('HSET', key, 'f', k.f .. 'c', 'l', '0', 'u', at(0))
  call('PEXPIREAT', key, at(tombstone))
  return 'OK ' .. n
end)

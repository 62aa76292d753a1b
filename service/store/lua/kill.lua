-- kill: an operator's close, whoever holds the session: its owner is fenced by a new epoch. It names the life that it
-- ends: a late copy leaves a later one alone.
-- OK n | CLOSED n | GONE | ERROR code

return each(function(key, item)
  local i, tombstone = struct.unpack('<c16I4', item)
  local k = read(key, 'i', 'e', 'n', 'f')
  if not k or k.i ~= i then
    return 'GONE'
  elseif is_closed(k.f) then
    keep(key, 0)
    return 'CLOSED ' .. k.n
  end
  local e = new_epoch(k.e)
  drop_payload(key)
  call('HSET', key, 'e', e, 'o', '', 'p', k.e, 'f', k.f .. 'c', 'l', '0', 'u', at(0))
  call('PEXPIREAT', key, at(tombstone))
  return 'OK ' .. k.n
end)

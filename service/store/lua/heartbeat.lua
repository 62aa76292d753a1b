-- heartbeat: the current claim keeps its lease and its session alive while no timestep comes. A lease that was released
-- stays so: a late copy of a heartbeat, sent on another connection than the release, would hold it for nobody.
-- OK | FENCED e p | CLOSED n | GONE | ERROR code

return each(function(key, item)
  local i, o, e, ttl, lease = struct.unpack('<c16c16Bc0I4I4', item)
  local k = read(key, 'i', 'e', 'o', 'p', 'n', 'f', 'l')
  local refused = refusal(key, k, i, e, o)
  if refused then
    return refused
  end
  -- PEXPIREAT first: after it the HSET, which adds nothing, is allowed even when memory is full.
  call('PEXPIREAT', key, at(ttl))
  if k.l ~= '0' then
    call('HSET', key, 'l', at(lease), 'u', at(0))
  end
  return 'OK'
end)

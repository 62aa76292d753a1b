-- peek: what is known of a session, without its payload. Reads only.
-- {OK, i, e, n, h, m, f, lease left, updated, time to live, state bytes} | GONE | ERROR code; times in milliseconds

return each(function(key)
  local k = read(key, 'i', 'e', 'n', 'h', 'm', 'f', 'l', 'u')
  if not k then
    return 'GONE'
  end
  local left = math.max(0, tonumber(k.l) - now)
  return { 'OK', k.i, k.e, k.n, k.h, k.m, k.f, decimal(left), k.u, decimal(call('PTTL', key)),
    decimal(call('HSTRLEN', key, 's')) }
end)

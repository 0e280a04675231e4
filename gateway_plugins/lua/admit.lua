-- Portero, post-function, access: the plugin's verdict, applied; without one nobody passes. The second lock beside the
-- service's dead address, and the only place that names another one. An error in here is Kong's 500.
--
-- It runs after every other plugin (priority -1000), so that none of them can change what was judged.

local REFUSAL = PORTERO_REFUSAL_POLICY_UNAVAILABLE

local assert, find, ipairs, pairs, type = assert, string.find, ipairs, pairs, type

local function refuse()
  local id = ngx.var.request_id or ""
  local fields = { ["X-Request-Id"] = id }
  for name, value in pairs(REFUSAL.fields) do
    fields[name] = value
  end
  return kong.response.exit(REFUSAL.status, REFUSAL.before_id .. id .. REFUSAL.after_id, fields)
end

local function address_type(host)
  if find(host, "^[%d.]+$") then
    return "ipv4"
  end
  return find(host, ":", 1, true) and "ipv6" or "name"
end

-- Where to, and how long: Kong took both from the service, before any plugin.
local function aim(verdict)
  local timeouts = verdict.timeouts
  local connect_ms, write_ms, read_ms = timeouts.connect_ms, timeouts.write_ms, timeouts.read_ms
  kong.service.set_target(verdict.host, verdict.port) -- it writes upstream_host, so Host is set later
  if kong.service.set_timeouts then -- Kong 3.8 and later
    kong.service.set_timeouts(connect_ms, write_ms, read_ms)
  end
  local data = ngx.ctx and ngx.ctx.balancer_data
  if data then
    -- The dead address is an IP address; Kong would take a name for one too ("no host allowed") and resolve nothing.
    data.type = address_type(verdict.host)
    data.retries = 0
    -- set_timeouts does not exist before 3.8, and writes write_timeout where the balancer reads send_timeout.
    data.connect_timeout, data.send_timeout, data.read_timeout = connect_ms, write_ms, read_ms
  end
end

return function()
  local verdict = kong.ctx.shared.portero_verdict
  if type(verdict) ~= "table" then
    return refuse()
  end
  local request, var = kong.service.request, ngx.var
  for _, name in ipairs(verdict.clear) do
    request.clear_header(name)
  end
  aim(verdict)
  request.set_path(verdict.path) -- canonical: Kong's escape leaves it as it is
  if verdict.query then
    request.set_raw_query(verdict.query)
  end
  assert(verdict.set.Host, "the verdict names no Host")
  for name, value in pairs(verdict.set) do
    request.set_header(name, value)
  end
  -- Kong computed these before any plugin, partly from what the client said of itself.
  local forwarded = verdict.forwarded
  var.upstream_x_forwarded_for = assert(forwarded["for"])
  var.upstream_x_forwarded_proto = assert(forwarded.proto)
  var.upstream_x_forwarded_host = assert(forwarded.host)
  var.upstream_x_forwarded_port = "" -- an empty one is not sent
  var.upstream_x_forwarded_path = ""
  var.upstream_x_forwarded_prefix = ""
  if ngx.ctx then
    ngx.ctx.cached_request_headers = nil -- Kong 3.6 to 3.9 would pass on TE by what it has read before facts.lua
  end
end

-- Portero, pre-function, access: what nginx has read of the head, as one string in kong.ctx.shared.portero_facts, and
-- then away with what a stranger must not be able to say. The string is the mark: where it is missing, nobody judges
-- and nobody passes. An error in here is Kong's 500, and the plugin does not run.
--
-- portero/1 LF peer LF scheme LF SNI LF request line LF name: value LF name: value ...
--
-- A byte beyond ASCII is written as the character of its number, in UTF-8: Kong's own plugin server takes nothing else,
-- and would let a request pass that it cannot read.
--
-- Names are judged by what they become at the function: CGI, WSGI and PHP fold case and turn punctuation into one
-- character, so X_Portero_Subject is X-Portero-Subject there.

-- The tables come from policies/header_fields.py; without them this is an error and not a pass.
local KEPT = PORTERO_KEPT -- these spellings stay: nginx, Kong or the judge of a credential reads them
local REMOVED = PORTERO_REMOVED -- folded names that go, in every other spelling
local PREFIXES = PORTERO_PREFIXES -- folded beginnings of names that go, in every spelling
local MAX_FIELDS = PORTERO_MAX_FIELDS -- each removal walks over all of them: thousands would take a worker 50 ms
local BAD_REQUEST = PORTERO_REFUSAL_BAD_REQUEST
local TOO_MANY = PORTERO_REFUSAL_TOO_MANY_FIELDS

local MAX_REMEMBERED = 4096 -- names; whoever sends requests chooses them
local MAX_NAME_BYTES = 64 -- longer ones are judged each time, which bounds the memo to half a mebibyte

local byte, char, concat, find, gsub = string.byte, string.char, table.concat, string.find, string.gsub
local lower, sub = string.lower, string.sub
local ipairs, pairs, type = ipairs, pairs, type
local verdicts, remembered = {}, 0

local function goes(name)
  if KEPT[name] then
    return false
  end
  if name == "" or find(name, "[^%w!#$%%&'*+.^_`|~-]") then
    return true -- not a token: nobody says what it means
  end
  local folded = gsub(lower(name), "%p", "-")
  if REMOVED[folded] then
    return true
  end
  for _, prefix in ipairs(PREFIXES) do
    if sub(folded, 1, #prefix) == prefix then
      return true
    end
  end
  return false
end

local function is_spoofable(name)
  local known = verdicts[name]
  if known == nil then
    known = goes(name)
    if #name <= MAX_NAME_BYTES then
      if remembered >= MAX_REMEMBERED then
        verdicts, remembered = {}, 0
      end
      verdicts[name], remembered = known, remembered + 1
    end
  end
  return known
end

local function as_utf_8(one)
  local number = byte(one)
  return number < 192 and char(194, number) or char(195, number - 64)
end

local function refuse(refusal)
  local id = ngx.var.request_id or ""
  local fields = { ["X-Request-Id"] = id }
  for name, value in pairs(refusal.fields) do
    fields[name] = value
  end
  return kong.response.exit(refusal.status, refusal.before_id .. id .. refusal.after_id, fields)
end

return function()
  local var, shared = ngx.var, kong.ctx.shared
  shared.portero_facts, shared.portero_found, shared.portero_verdict = nil, nil, nil

  local headers, truncated = ngx.req.get_headers(MAX_FIELDS)
  if truncated then
    return refuse(TOO_MANY)
  end
  -- The TCP peer, whatever real_ip_header has made of remote_addr: Portero asks its own trusted_peers.
  local peer = var.realip_remote_addr or var.remote_addr
  local scheme, request_line = var.scheme, var.request
  if not (peer and scheme and request_line) then
    return refuse(BAD_REQUEST)
  end
  local lines = { "portero/1", peer, scheme, var.ssl_server_name or "", request_line }
  local count, spoofable = 5, {}
  for name, value in pairs(headers) do
    if type(value) == "table" then
      for _, one in ipairs(value) do
        count = count + 1
        lines[count] = name .. ": " .. one
      end
    else
      count = count + 1
      lines[count] = name .. ": " .. value
    end
    if is_spoofable(name) then
      spoofable[#spoofable + 1] = name
    end
  end
  local facts = concat(lines, "\n")
  -- One line each, or a value could pass for a line of its own.
  local _, ends = gsub(facts, "\n", "")
  if ends ~= count - 1 or find(facts, "[%z\r]") then
    return refuse(BAD_REQUEST)
  end
  for _, name in ipairs(spoofable) do
    kong.service.request.clear_header(name)
  end
  shared.portero_facts = gsub(facts, "[\128-\255]", as_utf_8)
end

-- Portero, post-function, header_filter: a function's direct answer, as policies/header_fields.py filter_answer leaves
-- it, and the fields that Portero adds. What Portero itself answers (internal listener, refusals) passes untouched, but
-- for what breaks one of HTTP/2, Connection and Upgrade (RFC 9113 section 8.2.2).
-- An error in here closes the connection: nothing of the answer has left.
--
-- Framing is nginx's own: it has read Content-Length, Transfer-Encoding and Connection, and writes them anew.

local REMOVED = PORTERO_ANSWER_REMOVED -- lower-case names: hop-by-hop, or added anew
local CORS = PORTERO_ANSWER_CORS
local CACHING = PORTERO_ANSWER_CACHING
local CACHING_ENDING = PORTERO_ANSWER_CACHING_ENDING -- names by which caches are told apart (RFC 9213)
local OUR_PREFIX = PORTERO_ANSWER_PREFIX -- folded
local COOKIE_PREFIX = PORTERO_COOKIE_PREFIX -- lower case, as browsers match it

local error, find, gsub, lower, sub = error, string.find, string.gsub, string.lower, string.sub
local ipairs, pairs, type = ipairs, pairs, type

-- A cookie without a name, "=__Host-x=y", is sent back as "__Host-x=y" by older browsers.
local function is_our_cookie(pair)
  local bare = gsub(pair, "^[ \t=]+", "")
  return lower(sub(bare, 1, #COOKIE_PREFIX)) == COOKIE_PREFIX
end

local function without_our_cookies(value)
  local kept = {}
  for _, pair in ipairs(type(value) == "table" and value or { value }) do
    if not is_our_cookie(pair) then
      kept[#kept + 1] = pair
    end
  end
  return kept[1] and kept or nil
end

local function goes(name, answer, is_upgrade)
  if REMOVED[name] then
    return not (is_upgrade and name == "upgrade")
  end
  if CORS[name] then
    return answer.strip_cors
  end
  if CACHING[name] or sub(name, -#CACHING_ENDING) == CACHING_ENDING then
    return answer.is_private
  end
  local folded = gsub(name, "%p", "-")
  return sub(folded, 1, #OUR_PREFIX) == OUR_PREFIX
end

local function joined(present, more)
  local all = {}
  for _, values in ipairs({ present, more }) do
    for _, value in ipairs(type(values) == "table" and values or { values }) do
      all[#all + 1] = value
    end
  end
  return all
end

return function()
  local verdict = kong.ctx.shared.portero_verdict
  local answer = type(verdict) == "table" and verdict.answer
  if not answer then
    if ngx.var.server_protocol == "HTTP/2.0" then
      ngx.header["Connection"], ngx.header["Upgrade"] = nil, nil
    end
    return
  end
  local header, left = ngx.header, nil
  local is_upgrade = ngx.status == 101 and ngx.var.upstream_upgrade == "websocket"
  if ngx.status < 200 and not is_upgrade then
    -- nginx sends 1xx as the answer itself, and one whose first line it cannot read as it came (HTTP/0.9, status 9): a
    -- client would read on, and what follows, cookies and all, has passed no filter.
    error("the function's answer begins with a status below 200, or with none; see kong/README.md of Portero")
  end
  for name, value in pairs(ngx.resp.get_headers(0)) do
    if name == "set-cookie" then
      header["Set-Cookie"] = without_our_cookies(value)
    elseif goes(name, answer, is_upgrade) then
      header[name] = nil
      left = left or find(name, "_", 1, true)
    end
  end
  if left then
    -- Without lua_transform_underscores_in_response_headers off, nginx removes another name than the one it was given.
    for name in pairs(ngx.resp.get_headers(0)) do
      if find(name, "_", 1, true) and goes(name, answer, is_upgrade) then
        error("the answer's field " .. name .. " cannot be removed; see kong.conf of Portero")
      end
    end
  end
  if answer.is_by_cookie and not answer.is_private and header["Cache-Control"] == nil then
    header["Cache-Control"] = "private" -- a shared cache knows nothing of cookies
  end
  for name, value in pairs(answer.add) do
    local present = header[name]
    header[name] = present == nil and value or joined(present, value)
  end
end

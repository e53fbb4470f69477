-- Keeps execution records whose phase is terminal, one for each token and target: in a shared dict or in Redis.
local cjson = require "cjson.safe"

-- Debian has the same client under another name.
local has_resty, redis = pcall(require, "resty.redis")
if not has_resty then
    local has_debian, debian = pcall(require, "nginx.redis")
    redis = has_debian and debian or nil
end

local TERMINAL = { Succeeded = true, Failed = true, Cancelled = true, ForceCancelled = true }
local TTL_S = 3600
local TIMEOUT_MS = 1000
local IDLE_MS = 60000
local POOL = 64

local _M = {}

local function key()
    return (ngx.var.http_x_auth_token or "") .. "|" .. ngx.var.request_uri
end

local function is_settled(body)
    local record = cjson.decode(body)
    local status = type(record) == "table" and record.status
    local object = type(status) == "table" and status.objectStatus
    return type(object) == "table" and TERMINAL[object.phase] or false
end

local function send(body, status)
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Content-Length"] = #body
    ngx.header["X-Cache"] = status
    ngx.print(body)
end

-- Asks the upstream and passes its answer on; gives the body when it may be kept.
local function fetch()
    local answer = ngx.location.capture("/upstream" .. ngx.var.request_uri)
    if answer.status ~= 200 or answer.truncated then
        ngx.status = answer.status
        ngx.print(answer.body)
        return nil
    end
    send(answer.body, "miss")
    return is_settled(answer.body) and answer.body or nil
end

function _M.from_dict()
    local records = ngx.shared.records
    local name = key()
    local body = records:get(name)
    if body then
        return send(body, "hit")
    end
    body = fetch()
    if body then
        records:set(name, body, TTL_S)
    end
end

function _M.from_redis(host, port)
    local client = redis:new()
    client:set_timeout(TIMEOUT_MS)
    local is_up = client:connect(host, port)
    local name = key()
    local body = is_up and client:get(name)
    if body and body ~= ngx.null then
        client:set_keepalive(IDLE_MS, POOL)
        return send(body, "hit")
    end
    body = fetch()
    if is_up then
        if body then
            client:setex(name, TTL_S, body)
        end
        client:set_keepalive(IDLE_MS, POOL)
    end
end

return _M

-- What wrk asks for: the lines of a file, "token<TAB>target" (no token: none is sent), one after the other and again from the start.
-- Arguments after "--": the file, the Host, "fresh" for an X-Request-Id of its own in each request, else "same".

local heads, fresh, count, begin = {}, false, 0, 0

function init(args)
    local file, host = args[1], args[2]
    fresh = args[3] == "fresh"
    for line in io.lines(file) do
        local token, target = line:match("^(.-)\t(.*)$")
        heads[#heads + 1] = "GET " .. target .. " HTTP/1.1\r\nHost: " .. host .. "\r\n"
            .. (token ~= "" and "X-Auth-Token: " .. token .. "\r\n" or "")
            .. (fresh and "X-Request-Id: " or "\r\n")
    end
    -- Rounds should not all ask for the same few records first.
    begin = os.time() * 7919
end

function request()
    count = count + 1
    local head = heads[(begin + count) % #heads + 1]
    if fresh then
        return head .. begin .. "-" .. count .. "\r\n\r\n"
    end
    return head
end

-- The last line that wrk prints is for the harness.
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"completed": %d, "duration_s": %.6f, "errors": {"connect": %d, "read": %d, "write": %d, '
            .. '"timeout": %d, "status": %d}, "latency_ms": {"p50": %.4f, "p90": %.4f, "p99": %.4f, '
            .. '"p99.9": %.4f, "max": %.4f}}\n',
        summary.requests, summary.duration / 1e6, errors.connect, errors.read, errors.write, errors.timeout,
        errors.status, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3,
        latency:percentile(99.9) / 1e3, latency.max / 1e3
    ))
end

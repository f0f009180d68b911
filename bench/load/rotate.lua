-- Posts a rotating set of request bodies and prints one JSON line of what was seen.
-- Arguments after `--`: a folder with body-0 … body-(n-1) and headers.txt, the number of bodies, the request path.
-- All requests are rendered before the run, and there is no response callback: wrk counts statuses in C.

local requests = {}
local next_request = 0

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function init(args)
  local folder, count, path = args[1], tonumber(args[2]), args[3]
  for index = 0, count - 1 do
    local headers = {}
    for line in io.lines(folder .. "/headers.txt") do
      local name, value = line:match("^([^:]+):%s*(.*)$")
      headers[name] = value
    end
    requests[index] = wrk.format("POST", path, headers, read(folder .. "/body-" .. index))
  end
  next_request = math.random(0, count - 1)
end

function request()
  local rendered = requests[next_request]
  next_request = (next_request + 1) % (#requests + 1)
  return rendered
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"bytes":%d,"connect_errors":%d,"read_errors":%d,"write_errors":%d,' ..
    '"bad_statuses":%d,"timeouts":%d,"mean_us":%.1f,"stdev_us":%.1f,"min_us":%d,"p50_us":%d,"p90_us":%d,' ..
    '"p99_us":%d,"p999_us":%d,"max_us":%d}\n',
    summary.requests, summary.duration, summary.bytes, errors.connect, errors.read, errors.write, errors.status,
    errors.timeout, latency.mean, latency.stdev, latency.min, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency:percentile(99.9), latency.max))
end

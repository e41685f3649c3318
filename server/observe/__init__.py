"""What the operator sees of the requests: metrics, a log line for each, traces, a live summary.

Fed by one `RequestRecord` for each HTTP request; nothing here can fail or delay one.
"""

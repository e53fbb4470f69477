vcl 4.1;

backend origin {
    .host = "{{upstream_host}}";
    .port = "{{upstream_port}}";
}

sub vcl_recv {
    # Each token has records of its own. Running ones would be kept as well: Varnish can't read the body.
    if (req.method == "GET") {
        return (hash);
    }
}

sub vcl_hash {
    hash_data(req.http.X-Auth-Token);
}

sub vcl_backend_response {
    set beresp.ttl = 1h;
    set beresp.grace = 0s;
    return (deliver);
}

"""The twin: a simulated Huawei Cloud AOS v2 API, with an IAM, for development and measurements.

`serve` never imports it. Any X-Auth-Token is accepted until it is revoked on the control address, or until
that asks for issued ones. The text before its first colon is the project it belongs to: "project-a:alice" and
"project-a:bob" see the same stacks, "project-b:carol" sees none of them. A token without a colon is a project
of its own. What follows a second colon distinguishes the tokens of one user: "project-a:alice:1" and
"project-a:alice:2" are throttled together, and IAM says the same of both.

At the start IAM knows one user and one access key: account, user, password and both its halves are "twin".
"""

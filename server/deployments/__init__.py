"""Deployments: named endpoints that bring new versions of a model to traffic, safely.

`strategies` decide which version answers, as pure logic with an injected clock and randomness; `deployment`
is one endpoint with its books; `manager` has all of them, keeps them on disk and tells time. Around it,
`retry` sits between the gate and the routes, where it can ask another version after one has failed.
"""

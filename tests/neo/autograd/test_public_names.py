"""Where users find the engine's names."""

import neo
from neo import autograd
from neo.autograd import policy, session

SESSIONS = {
    *("value_and_grad", "grad", "vjp", "jvp", "jet", "linearize", "hvp", "jacobian", "hessian"),
    *("stop_gradient", "checkpoint", "custom_gradient", "gradcheck", "vmap"),
}


def test_function_is_public_where_policies_are():
    assert autograd.function is policy.function is neo.functions.function
    assert autograd.Policy is policy.Policy


def test_every_session_is_found_under_autograd_session_and_under_neo():
    assert set(session.__all__) == SESSIONS
    assert all(getattr(neo, name) is getattr(session, name) for name in SESSIONS)

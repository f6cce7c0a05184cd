// How a recording of a step (neo/_recording) sees the functions of this extension, which torch's dispatcher does not.
//
// A recording is a torch mode, and an open mode sends every function here to its fallback (unwatched()): other kernels
// would be recorded than run. So while a thread records, a function is called as if the mode were closed, and the
// recorder told of it; what a fallback does goes to the mode again.
#pragma once
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/Exceptions.h>

namespace {

using Fast = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);

const c10::DispatchKeySet MODES({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot});

struct Watched {  // a call of a function here, in a thread that records
  c10::impl::LocalDispatchKeySet keys;
  bool passed_on = false;  // to its fallback
};

thread_local PyObject* recorder = nullptr;  // (name, fallback, arguments, out), called after each function; a new reference
thread_local Watched* watched = nullptr;    // the innermost call

const char* name_of(PyCFunction function);  // in the table of _direct.cpp

PyObject* recorded(PyCFunction itself, Fast function, PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  Watched call{c10::impl::tls_local_dispatch_key_set()};
  PyObject* out = nullptr;
  {
    const c10::impl::ForceDispatchKeyGuard closed(call.keys.included_ - MODES, call.keys.excluded_);
    Watched* const around = std::exchange(watched, &call);
    out = function(fallback, arguments, count);
    watched = around;
  }
  if (out == nullptr || call.passed_on) return out;
  PyObject* given = PyTuple_New(count);
  for (Py_ssize_t i = 0; i < count; ++i) PyTuple_SET_ITEM(given, i, Py_NewRef(arguments[i]));
  PyObject* told = PyObject_CallFunction(recorder, "sONO", name_of(itself), fallback, given, out);
  if (told == nullptr) Py_CLEAR(out);
  Py_XDECREF(told);
  return out;
}

template <Fast function>
PyObject* direct(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  if (recorder == nullptr) [[likely]]
    return function(fallback, arguments, count);
  const auto itself = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&direct<function>));
  return recorded(itself, function, fallback, arguments, count);
}

// `fallback`, bound to each function as its self, with the same arguments.
PyObject* elsewhere(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  if (watched == nullptr) [[likely]]
    return PyObject_Vectorcall(fallback, arguments, count, nullptr);
  Watched* const call = std::exchange(watched, nullptr);
  call->passed_on = true;
  const c10::impl::ForceDispatchKeyGuard open(call->keys);
  PyObject* out = PyObject_Vectorcall(fallback, arguments, count, nullptr);
  watched = call;
  return out;
}

// The keys of code that no mode and no transform sees; a recording still does.
c10::DispatchKeySet plain_keys() {
  const auto modes = c10::impl::tls_local_dispatch_key_set().included_ & MODES;
  return recorder == nullptr ? c10::default_included_set : c10::default_included_set | modes;
}

// record(recorder or None): of this thread, from now on; gives the one before
PyObject* record(PyObject*, PyObject* now) {
  PyObject* const before = recorder;
  recorder = now == Py_None ? nullptr : Py_NewRef(now);
  return before == nullptr ? Py_NewRef(Py_None) : before;
}

}  // namespace

// A program: the kernel calls of one run of a step, made again on other inputs without Python between them.
//
// neo/_recording records them. A call is an op of torch's, called boxed and below autograd, which Neo's tensors never
// need; a Python callable, one of _direct's or of Neo's own kernels; or a view of what lies in another slot. Tensors
// lie in slots: first those that the program holds for good, then its inputs, then what its calls make. A slot is
// emptied after its last use. A program is not changed by its replays, which may thus run on several threads at once.
#include <ATen/EmptyTensor.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/as_strided.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/version.h>

#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

namespace py = pybind11;
using at::Tensor;
using Slot = int32_t;
using Slots = std::vector<Tensor>;
using Generator = std::optional<at::Generator>;  // that the replay's block draws from (neo.draws), if it is in one
using SlotOf = std::unordered_map<const void*, Slot>;  // TensorImpl → slot, at the time of recording

constexpr Slot NONE = -1;
constexpr int64_t LONG = 1 << 14;  // entries from which other Python threads may run meanwhile, as in direct_tensors.h

const void* identity(const Tensor& tensor) { return tensor.unsafeGetTensorImpl(); }

Slot slot_in(const SlotOf& slots, const Tensor& tensor) {
  const auto found = slots.find(identity(tensor));
  TORCH_CHECK(found != slots.end(), "neo: a tensor of a recorded call has no slot");
  return found->second;
}

// What is called, with what in which slots.
struct Call {
  virtual ~Call() = default;
  virtual void run(Slots& slots, const std::vector<Slot>& out, const Generator& generator) const = 0;
  virtual void each_slot(const std::function<void(Slot&)>& change) = 0;  // those that it reads
};

void put(Slots& slots, const std::vector<Slot>& out, size_t& place, Tensor tensor) {
  TORCH_CHECK(place < out.size(), "neo: a replayed call gave more tensors than at its recording");
  if (out[place] != NONE) slots[out[place]] = std::move(tensor);
  ++place;
}

class Aten final : public Call {
 public:
  Aten(const std::string& name, const std::string& overload, const py::args& args, const py::kwargs& kwargs,
       const SlotOf& slots, bool from_block)
      : op_(c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str())) {
    const torch::jit::ToIValueAllowNumbersAsTensors numbers(true);
    given_ = torch::jit::createStackForSchema(op_.schema(), torch::jit::tuple_slice(args), kwargs, std::nullopt);
    for (size_t i = 0; i < given_.size(); ++i) {
      if (from_block && given_[i].isGenerator()) {
        draws_from_block_ = static_cast<Slot>(i);
        given_[i] = c10::IValue();
      }
      find(i, slots);
    }
  }

  void run(Slots& slots, const std::vector<Slot>& out, const Generator& generator) const override {
    torch::jit::Stack stack = given_;
    if (draws_from_block_ != NONE) {
      TORCH_CHECK(generator.has_value(), "neo: a replay that draws from a seed was given no generator");
      stack[draws_from_block_] = *generator;
    }
    for (const Hole& hole : tensors_) stack[hole.argument] = slots[hole.slot];
    for (const Lists& lists : lists_) {
      if (lists.optional) {
        c10::List<std::optional<Tensor>> list;
        for (const Slot slot : lists.slots) list.push_back(slot == NONE ? std::nullopt : std::optional(slots[slot]));
        stack[lists.argument] = std::move(list);
      } else {
        c10::List<Tensor> list;
        for (const Slot slot : lists.slots) list.push_back(slots[slot]);
        stack[lists.argument] = std::move(list);
      }
    }
    {
      const at::AutoDispatchBelowADInplaceOrView below;
      if (large(slots)) {
        const py::gil_scoped_release others;
        op_.callBoxed(stack);
      } else {
        op_.callBoxed(stack);
      }
    }
    size_t place = 0;
    for (c10::IValue& value : stack) {
      if (value.isTensor()) {
        put(slots, out, place, std::move(value).toTensor());
      } else if (value.isTensorList()) {
        for (const Tensor& tensor : value.toTensorVector()) put(slots, out, place, tensor);
      }
    }
    TORCH_CHECK(place == out.size(), "neo: a replayed call gave fewer tensors than at its recording");
  }

  void each_slot(const std::function<void(Slot&)>& change) override {
    for (Hole& hole : tensors_) change(hole.slot);
    for (Lists& lists : lists_)
      for (Slot& slot : lists.slots)
        if (slot != NONE) change(slot);
  }

 private:
  struct Hole {
    size_t argument;
    Slot slot;
  };
  struct Lists {
    size_t argument;
    std::vector<Slot> slots;
    bool optional;
  };

  void find(size_t i, const SlotOf& slots) {
    c10::IValue& value = given_[i];
    if (value.isTensor()) {
      const Tensor& tensor = value.toTensor();
      if (!tensor.defined() || tensor.unsafeGetTensorImpl()->is_wrapped_number()) return;  // a Python number
      tensors_.push_back({i, slot_in(slots, tensor)});
    } else if (value.isTensorList()) {
      Lists lists{i, {}, false};
      for (const Tensor& tensor : value.toTensorVector()) lists.slots.push_back(slot_in(slots, tensor));
      lists_.push_back(std::move(lists));
    } else if (value.isOptionalTensorList()) {
      Lists lists{i, {}, true};
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector())
        lists.slots.push_back(tensor.has_value() && tensor->defined() ? slot_in(slots, *tensor) : NONE);
      lists_.push_back(std::move(lists));
    } else {
      return;
    }
    value = c10::IValue();  // the program must not keep the tensors of its recording
  }

  bool large(const Slots& slots) const {
    for (const Hole& hole : tensors_)
      if (slots[hole.slot].numel() >= LONG) return true;
    return false;
  }

  c10::OperatorHandle op_;
  torch::jit::Stack given_;
  std::vector<Hole> tensors_;
  std::vector<Lists> lists_;
  Slot draws_from_block_ = NONE;  // the place of its generator among the arguments
};

// A callable of Python's, whose arguments are tensors, tuples and lists of them, and constants.
class Callable final : public Call {
 public:
  Callable(py::object function, const py::tuple& args, const py::dict& kwargs, const SlotOf& slots)
      : function_(std::move(function)), args_(read(args, slots)) {
    if (kwargs.empty()) return;
    py::tuple names(kwargs.size());
    size_t i = 0;
    for (const auto& [name, value] : kwargs) {
      names[i++] = name;
      args_.items.push_back(read(value, slots));
    }
    names_ = std::move(names);
  }

  void run(Slots& slots, const std::vector<Slot>& out, const Generator&) const override {
    std::vector<py::object> held;
    c10::SmallVector<PyObject*, 24> given;
    for (const Value& value : args_.items) given.push_back(held.emplace_back(object(value, slots)).ptr());
    const size_t named = names_ ? PyTuple_GET_SIZE(names_.ptr()) : 0;
    const py::object found = py::reinterpret_steal<py::object>(
        PyObject_Vectorcall(function_.ptr(), given.data(), given.size() - named, names_.ptr()));
    if (!found) throw python_error_now();
    size_t place = 0;
    unpack(found.ptr(), slots, out, place);
    TORCH_CHECK(place == out.size(), "neo: a replayed call gave fewer tensors than at its recording");
  }

  void each_slot(const std::function<void(Slot&)>& change) override { each_slot(args_, change); }

 private:
  struct Value {
    Slot slot = NONE;
    bool tuple = false;
    py::object constant;  // neither a tensor nor a tuple
    std::vector<Value> items;
  };

  static python_error python_error_now() {
    python_error error;
    error.persist();
    return error;
  }

  static Value read(py::handle object, const SlotOf& slots) {
    Value value;
    if (THPVariable_Check(object.ptr())) {
      value.slot = slot_in(slots, THPVariable_Unpack(object.ptr()));
    } else if (PyTuple_CheckExact(object.ptr())) {
      value.tuple = true;
      for (const py::handle item : py::reinterpret_borrow<py::tuple>(object)) value.items.push_back(read(item, slots));
    } else {
      value.constant = py::reinterpret_borrow<py::object>(object);
    }
    return value;
  }

  static py::object object(const Value& value, const Slots& slots) {
    if (value.slot != NONE) return py::reinterpret_steal<py::object>(THPVariable_Wrap(slots[value.slot]));
    if (!value.tuple) return value.constant;
    py::tuple items(value.items.size());
    for (size_t i = 0; i < value.items.size(); ++i)
      PyTuple_SET_ITEM(items.ptr(), i, object(value.items[i], slots).release().ptr());
    return items;
  }

  static void unpack(PyObject* found, Slots& slots, const std::vector<Slot>& out, size_t& place) {
    if (THPVariable_Check(found)) {
      put(slots, out, place, THPVariable_Unpack(found));
    } else if (PyTuple_Check(found) || PyList_Check(found)) {
      for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(found); ++i)
        unpack(PySequence_Fast_GET_ITEM(found, i), slots, out, place);
    }
  }

  static void each_slot(Value& value, const std::function<void(Slot&)>& change) {
    if (value.slot != NONE) change(value.slot);
    for (Value& item : value.items) each_slot(item, change);
  }

  py::object function_;
  Value args_;
  py::object names_;
};

// A view of what lies in a slot, which no op that was seen has made.
class View final : public Call {
 public:
  View(Slot slot, std::vector<int64_t> size, std::vector<int64_t> stride, int64_t further)
      : slot_(slot), size_(std::move(size)), stride_(std::move(stride)), further_(further) {}

  void run(Slots& slots, const std::vector<Slot>& out, const Generator&) const override {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Tensor& base = slots[slot_];
    size_t place = 0;
    put(slots, out, place, at::as_strided(base, size_, stride_, base.storage_offset() + further_));
  }

  void each_slot(const std::function<void(Slot&)>& change) override { change(slot_); }

 private:
  Slot slot_;
  std::vector<int64_t> size_, stride_;
  int64_t further_;
};

c10::DispatchKeySet dense;  // the keys of an ordinary CPU tensor; set once, at import

struct Layout {
  explicit Layout(const Tensor& x) : size(x.sizes()), stride(x.strides()), dtype(x.scalar_type()) {}
  bool operator==(const Tensor& x) const { return x.scalar_type() == dtype && x.sizes() == size && x.strides() == stride; }
  c10::SmallVector<int64_t, 5> size, stride;
  at::ScalarType dtype;
};

struct Step {
  std::shared_ptr<Call> call;
  std::vector<Slot> out, last;  // where its tensors go, NONE for those that nobody reads; slots that it is the last to read
};

class Program {
 public:
  Program(std::vector<Tensor> held, const std::vector<Tensor>& inputs, size_t slots, std::vector<Step> steps,
          std::vector<std::pair<Slot, bool>> outputs)
      : held_(std::move(held)), slots_(slots), steps_(std::move(steps)), outputs_(std::move(outputs)) {
    for (const Tensor& tensor : held_) layouts_.emplace_back(tensor);
    for (const Tensor& tensor : inputs) inputs_.emplace_back(tensor);
  }

  // Whether these are tensors like those of the recording, in a thread where no mode, transform or autocast is on.
  bool takes(const py::list& tensors) const {
    const auto local = c10::impl::tls_local_dispatch_key_set();
    if (local.included_ != c10::default_included_set || local.excluded_ != c10::default_excluded_set) return false;
    if (at::impl::torch_function_mode_enabled() || tensors.size() != inputs_.size()) return false;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      PyObject* value = PyList_GET_ITEM(tensors.ptr(), i);
      if (!THPVariable_CheckExact(value)) return false;
      const Tensor& tensor = THPVariable_Unpack(value);
      if (!tensor.defined() || tensor.key_set() != dense || tensor.requires_grad() || !(inputs_[i] == tensor)) return false;
      if (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % tensor.itemsize() != 0) return false;  // some of numpy's
    }
    return true;
  }

  py::list replay(const py::list& inputs, const Generator& generator) const {
    TORCH_CHECK(takes(inputs), "neo: a replay was given tensors of other layouts than the recording's");
    Slots slots;
    slots.reserve(slots_);
    for (size_t i = 0; i < held_.size(); ++i) {
      TORCH_CHECK(layouts_[i] == held_[i], "capture: a tensor that the step closes over was resized after its recording");
      slots.push_back(held_[i]);
    }
    for (const py::handle input : inputs) slots.push_back(THPVariable_Unpack(input.ptr()));
    slots.resize(slots_);
    for (const Step& step : steps_) {
      step.call->run(slots, step.out, generator);
      for (const Slot slot : step.last) slots[slot].reset();
    }
    py::list out(outputs_.size());
    for (size_t i = 0; i < outputs_.size(); ++i) {
      Tensor& found = slots[outputs_[i].first];
      const at::AutoDispatchBelowADInplaceOrView below;
      PyList_SET_ITEM(out.ptr(), i, THPVariable_Wrap(outputs_[i].second ? found.clone() : found));
    }
    return out;
  }

  size_t size() const { return steps_.size(); }

 private:
  std::vector<Tensor> held_;
  std::vector<Layout> layouts_, inputs_;  // of what is held, and of the inputs
  size_t slots_;
  std::vector<Step> steps_;
  std::vector<std::pair<Slot, bool>> outputs_;  // its slot; whether the caller gets a copy
};

// The places of tensors whose numbers, bit for bit, are not those of `before`; a place without one is passed over.
std::vector<size_t> changed(const py::list& tensors, const py::list& before) {
  std::vector<size_t> found;
  for (size_t i = 0; i < tensors.size(); ++i) {
    PyObject* kept = PyList_GET_ITEM(before.ptr(), i);
    if (kept == Py_None) continue;
    const Tensor &x = THPVariable_Unpack(PyList_GET_ITEM(tensors.ptr(), i)), &y = THPVariable_Unpack(kept);
    if (x.numel() == 0) continue;  // whose memory may be nowhere
    const at::AutoDispatchBelowADInplaceOrView below;
    const bool dense = x.is_contiguous() && y.is_contiguous();
    if (dense ? std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) != 0 : !x.equal(y)) found.push_back(i);
  }
  return found;
}

// The storages of the tensors among some objects; their addresses are given to no other storage while this lives.
class Storages {
 public:
  explicit Storages(const py::list& objects) {
    auto* const tensors = reinterpret_cast<PyTypeObject*>(THPVariableClass);
    for (const py::handle object : objects) {
      if (!PyType_IsSubtype(Py_TYPE(object.ptr()), tensors)) continue;
      const Tensor& tensor = THPVariable_Unpack(object.ptr());
      if (!tensor.defined() || !tensor.has_storage()) continue;
      const c10::Storage& storage = tensor.unsafeGetTensorImpl()->unsafe_storage();
      c10::StorageImpl* const address = storage.unsafeGetStorageImpl();
      if (addresses_.insert(reinterpret_cast<uintptr_t>(address)).second) kept_.push_back(storage.getWeakStorageImpl());
    }
  }

  bool contains(uintptr_t address) const { return addresses_.count(address) > 0; }

 private:
  std::unordered_set<uintptr_t> addresses_;
  std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> kept_;
};

SlotOf slots_of(const py::dict& slots) {
  SlotOf found;
  for (const auto& [tensor, slot] : slots)
    found[reinterpret_cast<const void*>(tensor.cast<uintptr_t>())] = slot.cast<Slot>();
  return found;
}

}  // namespace

PYBIND11_MODULE(_replay, module) {
  dense = at::detail::empty_cpu({0}, at::kFloat).key_set();
  module.attr("TORCH") = TORCH_VERSION;
  py::class_<Call, std::shared_ptr<Call>>(module, "Call").def("slots", [](Call& call) {
    std::vector<Slot> found;
    call.each_slot([&](Slot& slot) { found.push_back(slot); });
    return found;
  }).def("renumber", [](Call& call, const std::unordered_map<Slot, Slot>& now) {
    call.each_slot([&](Slot& slot) { slot = now.at(slot); });
  });
  module.def("aten", [](const std::string& name, const std::string& overload, const py::tuple& args,
                        const py::dict& kwargs, const py::dict& slots, bool from_block) -> std::shared_ptr<Call> {
    return std::make_shared<Aten>(name, overload, py::args(args), py::kwargs(kwargs), slots_of(slots), from_block);
  });
  module.def("callable", [](py::object function, const py::tuple& args, const py::dict& kwargs,
                            const py::dict& slots) -> std::shared_ptr<Call> {
    return std::make_shared<Callable>(std::move(function), args, kwargs, slots_of(slots));
  });
  module.def("view", [](Slot slot, std::vector<int64_t> size, std::vector<int64_t> stride,
                        int64_t further) -> std::shared_ptr<Call> {
    return std::make_shared<View>(slot, std::move(size), std::move(stride), further);
  });
  module.def("changed", &changed);
  py::class_<Storages>(module, "Storages").def(py::init<const py::list&>()).def("__contains__", &Storages::contains);
  py::class_<Program>(module, "Program")
      .def(py::init([](std::vector<Tensor> held, const std::vector<Tensor>& inputs, size_t slots,
                       const std::vector<std::tuple<std::shared_ptr<Call>, std::vector<Slot>, std::vector<Slot>>>& steps,
                       std::vector<std::pair<Slot, bool>> outputs) {
        std::vector<Step> made;
        for (const auto& [call, out, last] : steps) made.push_back({call, out, last});
        return std::make_unique<Program>(std::move(held), inputs, slots, std::move(made), std::move(outputs));
      }))
      .def("takes", &Program::takes)
      .def("replay", &Program::replay, py::arg("inputs"), py::arg("generator") = py::none())
      .def("__len__", &Program::size);
}

// What the scalar references are written in. They are templates over three element types:
//   S  the type that all arithmetic is done in: double in the reference backend; tests also use
//      std::complex<double>, for derivatives by complex step (Squire & Trapp 1998);
//   X  how activations are stored: float, BF16, or S itself;
//   P  how parameters, gradients and statistics are stored: float, or S itself.
// The references are plain loops in the order of the formula and know nothing of threads.
#pragma once

#include <cmath>
#include <complex>
#include <type_traits>

#include "backend/backend.h"
#include "core/dtype.h"

namespace lowrank::reference {

template <typename S, typename T>
S load(T value) {
  if constexpr (std::is_same_v<S, T>)
    return value;
  else
    return S(to_float(value));
}

// From double, a 16-bit value is rounded by way of float.
template <typename T, typename S>
T store(S value) {
  if constexpr (std::is_same_v<S, T>)
    return value;
  else
    return from_float<T>(static_cast<float>(value));
}

// Comparisons look at the real part only: a complex step never changes a branch.
inline double real_part(double value) { return value; }
inline double real_part(std::complex<double> value) { return value.real(); }

inline double erfc_of(double value) { return std::erfc(value); }
// Exact to first order in the imaginary part, which is all that a complex step needs.
inline std::complex<double> erfc_of(std::complex<double> value) {
  const double x = value.real();
  return {std::erfc(x), value.imag() * -1.1283791670955126 * std::exp(-x * x)};
}

template <typename T>
struct View {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  T& at(int64_t row, int64_t col) const { return data[row * stride + col]; }
  explicit operator bool() const { return data != nullptr; }
};

template <typename T>
View<T> view(const Matrix& matrix) {
  return {static_cast<T*>(matrix.data), matrix.rows, matrix.cols, matrix.stride};
}

template <typename T>
struct TypeTag {
  using Type = T;
};

// Calls body(TypeTag<float or BF16>) for an activation's type.
template <typename Body>
void with_activation(DType dtype, const Body& body) {
  if (dtype == DType::kBF16)
    body(TypeTag<BF16>{});
  else
    body(TypeTag<float>{});
}

// Calls body(TypeTag<float, BF16 or F16>).
template <typename Body>
void with_float_type(DType dtype, const Body& body) {
  if (dtype == DType::kF16)
    body(TypeTag<F16>{});
  else
    with_activation(dtype, body);
}

}  // namespace lowrank::reference

// SPDX-License-Identifier: Apache-2.0
// cuBLASLt, opened when it is first needed: a program starts where the library is not installed, and its functions,
// which cuda_cublas_lt.cc defines, are found in libcublasLt.so.13 wherever the dynamic loader or /usr/local/cuda has
// it.
#pragma once

#include <string>

namespace farspan {

// Empty where the library can be opened, else why not. Thread-safe.
const std::string& CublasLtProblem();

}  // namespace farspan

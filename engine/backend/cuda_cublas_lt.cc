// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

namespace farspan {
namespace {

struct CublasLt {
  void* library = nullptr;
  std::string problem;
};

const CublasLt& Opened() {
  static const CublasLt* const opened = [] {
    auto* const made = new CublasLt;
    for (const char* path : {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13"}) {
      made->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
      if (made->library != nullptr) return made;
    }
    const char* const error = dlerror();
    made->problem = error == nullptr ? "libcublasLt.so.13 cannot be opened" : error;
    return made;
  }();
  return *opened;
}

// Null where the library, or the function in it, is not there.
template <typename Function>
Function* Find(Function*, const char* name) {
  void* const library = Opened().library;
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

template <typename Function, typename... Args>
cublasStatus_t Call(Function* function, Args... args) {
  return function == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : function(args...);
}

}  // namespace

const std::string& CublasLtProblem() { return Opened().problem; }

}  // namespace farspan

// The functions that we call, under their own names.
extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  static auto* const real = farspan::Find(&cublasLtCreate, "cublasLtCreate");
  return farspan::Call(real, handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  static auto* const real = farspan::Find(&cublasLtDestroy, "cublasLtDestroy");
  return farspan::Call(real, handle);
}

const char* cublasLtGetStatusName(cublasStatus_t status) {
  static auto* const real = farspan::Find(&cublasLtGetStatusName, "cublasLtGetStatusName");
  return real == nullptr ? "CUBLAS_STATUS_NOT_INITIALIZED" : real(status);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  static auto* const real = farspan::Find(&cublasLtMatmul, "cublasLtMatmul");
  return farspan::Call(real, handle, product, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout,
                       algorithm, workspace, workspace_bytes, stream);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* num_results) {
  static auto* const real = farspan::Find(&cublasLtMatmulAlgoGetHeuristic, "cublasLtMatmulAlgoGetHeuristic");
  return farspan::Call(real, handle, product, a, b, c, d, preference, wanted, results, num_results);
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t product, size_t size, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  static auto* const real = farspan::Find(&cublasLtMatmulDescInit_internal, "cublasLtMatmulDescInit_internal");
  return farspan::Call(real, product, size, compute, scale);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t size) {
  static auto* const real = farspan::Find(&cublasLtMatmulDescSetAttribute, "cublasLtMatmulDescSetAttribute");
  return farspan::Call(real, product, attribute, value, size);
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size, cudaDataType type,
                                                 uint64_t rows, uint64_t columns, int64_t stride) {
  static auto* const real = farspan::Find(&cublasLtMatrixLayoutInit_internal, "cublasLtMatrixLayoutInit_internal");
  return farspan::Call(real, layout, size, type, rows, columns, stride);
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t size) {
  static auto* const real =
      farspan::Find(&cublasLtMatmulPreferenceInit_internal, "cublasLtMatmulPreferenceInit_internal");
  return farspan::Call(real, preference, size);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t size) {
  static auto* const real =
      farspan::Find(&cublasLtMatmulPreferenceSetAttribute, "cublasLtMatmulPreferenceSetAttribute");
  return farspan::Call(real, preference, attribute, value, size);
}

}  // extern "C"

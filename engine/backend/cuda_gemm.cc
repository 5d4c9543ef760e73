// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_gemm.h"

#include "absl/strings/str_cat.h"
#include "engine/base/math.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

// cuBLASLt's matrices are column-major: y's transpose is the weights, transposed, times x's transpose.
struct Problem {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t weight, x, y;
};

cublasStatus_t Describe(int64_t num_rows, int64_t num_outputs, int64_t num_columns, int64_t y_stride, bool y_is_bf16,
                        Problem* problem) {
  const auto rows = static_cast<uint64_t>(num_rows), outputs = static_cast<uint64_t>(num_outputs);
  const auto columns = static_cast<uint64_t>(num_columns);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  for (const cublasStatus_t status :
       {cublasLtMatmulDescInit(&problem->product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        cublasLtMatmulDescSetAttribute(&problem->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
        cublasLtMatrixLayoutInit(&problem->weight, CUDA_R_16BF, columns, outputs, num_columns),
        cublasLtMatrixLayoutInit(&problem->x, CUDA_R_16BF, columns, rows, num_columns),
        cublasLtMatrixLayoutInit(&problem->y, y_is_bf16 ? CUDA_R_16BF : CUDA_R_32F, outputs, rows, y_stride)}) {
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  return CUBLAS_STATUS_SUCCESS;
}

// Row counts that share an algorithm: finer where one more tile of rows matters.
int64_t BucketRows(int64_t num_rows) {
  if (num_rows <= 256) return RoundUp(num_rows, int64_t{16});
  if (num_rows <= 2048) return RoundUp(num_rows, int64_t{128});
  return RoundUp(num_rows, int64_t{1024});
}

absl::Status Failure(const char* what, cublasStatus_t status) {
  return absl::InternalError(absl::StrCat("cublasLt ", what, ": ", cublasLtGetStatusName(status)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaGemm>> CudaGemm::Create(kernels::cuda::Workspace workspace) {
  cublasLtHandle_t handle = nullptr;
  if (const cublasStatus_t status = cublasLtCreate(&handle); status != CUBLAS_STATUS_SUCCESS) {
    return Failure("start", status);
  }
  return std::unique_ptr<CudaGemm>(new CudaGemm(handle, workspace));
}

CudaGemm::~CudaGemm() { cublasLtDestroy(handle_); }

absl::StatusOr<const cublasLtMatmulAlgo_t*> CudaGemm::AlgorithmFor(const Shape& shape) {
  if (const auto found = algorithms_.find(shape); found != algorithms_.end()) return &found->second;
  Problem problem;
  cublasStatus_t status =
      Describe(shape.bucket_rows, shape.num_outputs, shape.num_columns, shape.y_stride, shape.y_is_bf16, &problem);
  cublasLtMatmulPreferenceOpaque_t preference;
  if (status == CUBLAS_STATUS_SUCCESS) status = cublasLtMatmulPreferenceInit(&preference);
  const auto workspace_bytes = static_cast<uint64_t>(workspace_.size_bytes);
  // Partial sums in memory, added in one order; adding in place would depend on who comes first.
  const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const uint32_t alignment = kAlignmentBytes;
  for (const auto& [attribute, value, size] :
       {std::tuple<cublasLtMatmulPreferenceAttributes_t, const void*, size_t>(
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof(workspace_bytes)),
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof(reductions)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof(alignment)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof(alignment)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof(alignment)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof(alignment)}}) {
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulPreferenceSetAttribute(&preference, attribute, value, size);
    }
  }
  cublasLtMatmulHeuristicResult_t result{};
  int num_results = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasLtMatmulAlgoGetHeuristic(handle_, &problem.product, &problem.weight, &problem.x, &problem.y,
                                            &problem.y, &preference, 1, &result, &num_results);
  }
  if (status == CUBLAS_STATUS_SUCCESS && num_results == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (status != CUBLAS_STATUS_SUCCESS) return Failure("choice of an algorithm", status);
  return &algorithms_.emplace(shape, result.algo).first->second;
}

absl::Status CudaGemm::Run(const CudaGemmArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return absl::OkStatus();
  FARSPAN_ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t* algorithm,
                           AlgorithmFor({.bucket_rows = BucketRows(args.num_rows),
                                         .num_outputs = args.num_outputs,
                                         .num_columns = args.num_columns,
                                         .y_stride = args.y_stride,
                                         .y_is_bf16 = args.y_is_bf16,
                                         .accumulate = args.accumulate}));
  Problem problem;
  cublasStatus_t status =
      Describe(args.num_rows, args.num_outputs, args.num_columns, args.y_stride, args.y_is_bf16, &problem);
  const float alpha = 1, beta = args.accumulate ? 1 : 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasLtMatmul(handle_, &problem.product, &alpha, args.weight, &problem.weight, args.x, &problem.x, &beta,
                            args.y, &problem.y, args.y, &problem.y, algorithm, workspace_.data,
                            static_cast<size_t>(workspace_.size_bytes), stream);
  }
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return Failure(absl::StrCat("product of ", args.num_rows, " x ", args.num_columns, " by ", args.num_outputs).c_str(),
                 status);
}

}  // namespace farspan

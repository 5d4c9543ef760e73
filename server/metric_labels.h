// SPDX-License-Identifier: Apache-2.0
// The labels that metric families may have, and the combinations in use. For metric_table.cc alone.
#pragma once

#include "server/metric_table.h"

namespace farspan::metrics {

inline constexpr std::string_view kTiers[] = {"device"};
inline constexpr std::string_view kPreemptionModes[] = {"recompute"};
inline constexpr std::string_view kVllmFinishReasons[] = {"stop", "length", "abort", "error"};
inline constexpr std::string_view kVllmWaitingReasons[] = {"capacity", "deferred"};
inline constexpr std::string_view kVllmSources[] = {"local_compute", "local_cache_hit", "external_kv_transfer"};
inline constexpr std::string_view kGrpcCodes[] = {
    "OK",          "CANCELLED",     "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",   "NOT_FOUND",
    "ABORTED",     "OUT_OF_RANGE",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ALREADY_EXISTS",
    "UNAVAILABLE", "UNIMPLEMENTED", "INTERNAL",          "DATA_LOSS",          "UNAUTHENTICATED"};

inline constexpr MetricLabel kPolicy = {
    "attention_policy", "name of the request's policy, one of those of this build", {}};
inline constexpr MetricLabel kBand = {"context_band", "tokens of the prompt: at most 4,096, 16,384, ...",
                                      kContextBands};
inline constexpr MetricLabel kFinish = {"finish_reason", "how the engine ended the request", kFinishReasons};
inline constexpr MetricLabel kRejection = {"reason", "reason of the error in small letters", kRejectionReasons};
inline constexpr MetricLabel kMode = {"mode", "what becomes of the pages", kPreemptionModes};
inline constexpr MetricLabel kSource = {"source", "computed now, or found in the prefix cache", kPromptSources};
inline constexpr MetricLabel kTier = {"tier", "where the pages lie", kTiers};
inline constexpr MetricLabel kKvDtype = {"kv_dtype", "element type of the KV cache", {}};
inline constexpr MetricLabel kPageState = {"state", "free, held by a live request, or kept by the prefix cache alone",
                                           kPageStates};
inline constexpr MetricLabel kPhase = {"phase", "rows of prompts, or of generated tokens", kPhases};
inline constexpr MetricLabel kStepPhase = {"phase", "what the step's batch held", kStepPhases};
inline constexpr MetricLabel kDevice = {"device", "kind of the device", {}};
inline constexpr MetricLabel kMemoryKind = {"kind", "what the bytes are for", kMemoryKindNames};
inline constexpr MetricLabel kMethod = {"method", "gRPC method", kGrpcMethods};
inline constexpr MetricLabel kCode = {"code", "gRPC status", kGrpcCodes};
inline constexpr MetricLabel kDirection = {"direction", "as the server sees it", kDirections};
inline constexpr MetricLabel kReference = {"reference_policy", "what the policy was compared with", kReferencePolicies};
inline constexpr MetricLabel kVersion = {"version", "of the server, or of the policy's arithmetic", {}};
inline constexpr MetricLabel kArchitecture = {"architecture", "of the model file", {}};
inline constexpr MetricLabel kWeightsId = {"weights_id", "identifies the weights", {}};
inline constexpr MetricLabel kLayers = {"layers", "of the model", {}};
inline constexpr MetricLabel kContext = {"max_context_tokens", "longest prompt and output together", {}};
inline constexpr MetricLabel kPageTokens = {"page_tokens", "tokens of a KV page", {}};
inline constexpr MetricLabel kSparsePrefill = {"sparse_prefill", "whether prompts are read in part", {}};
inline constexpr MetricLabel kSparseDecode = {"sparse_decode", "whether generated tokens read the context in part", {}};
inline constexpr MetricLabel kEvicts = {"evicts", "whether pages are freed before the request ends", {}};
inline constexpr MetricLabel kVllmFinish = {"finished_reason", "how the request ended", kVllmFinishReasons};
inline constexpr MetricLabel kVllmWaiting = {"reason", "why it waits; nothing here is ever deferred",
                                             kVllmWaitingReasons};
inline constexpr MetricLabel kVllmSource = {
    "source", "computed here or found in the prefix cache; there is no transfer", kVllmSources};
inline constexpr MetricLabel kBlockSize = {"block_size", "tokens of a KV page", {}};
inline constexpr MetricLabel kCacheDtype = {"cache_dtype", "element type of the KV cache", {}};
inline constexpr MetricLabel kNumBlocks = {"num_gpu_blocks", "KV pages of the device, whichever it is", {}};
inline constexpr MetricLabel kPrefixCaching = {"enable_prefix_caching", "True or False", {}};

using LabelPointer = const MetricLabel*;
inline constexpr LabelPointer kByPolicy[] = {&kPolicy};
inline constexpr LabelPointer kByPolicyAndBand[] = {&kPolicy, &kBand};
inline constexpr LabelPointer kByPolicyAndFinish[] = {&kPolicy, &kFinish};
inline constexpr LabelPointer kByPolicyAndMode[] = {&kPolicy, &kMode};
inline constexpr LabelPointer kByPolicyAndSource[] = {&kPolicy, &kSource};
inline constexpr LabelPointer kByPolicyAndPhase[] = {&kPolicy, &kPhase};
inline constexpr LabelPointer kByPolicyAndReference[] = {&kPolicy, &kReference};
inline constexpr LabelPointer kByPolicyAndTier[] = {&kPolicy, &kTier, &kKvDtype};
inline constexpr LabelPointer kByRejection[] = {&kRejection};
inline constexpr LabelPointer kByPageState[] = {&kPageState};
inline constexpr LabelPointer kByPhase[] = {&kPhase};
inline constexpr LabelPointer kByStepPhase[] = {&kStepPhase};
inline constexpr LabelPointer kByMemoryKind[] = {&kDevice, &kMemoryKind};
inline constexpr LabelPointer kByMethod[] = {&kMethod};
inline constexpr LabelPointer kByMethodAndCode[] = {&kMethod, &kCode};
inline constexpr LabelPointer kByMethodAndDirection[] = {&kMethod, &kDirection};
inline constexpr LabelPointer kBuildLabels[] = {&kVersion};
inline constexpr LabelPointer kModelLabels[] = {&kArchitecture, &kWeightsId, &kLayers,
                                                &kContext,      &kKvDtype,   &kPageTokens};
inline constexpr LabelPointer kPolicyLabels[] = {&kPolicy, &kSparsePrefill, &kSparseDecode, &kEvicts, &kVersion};
inline constexpr LabelPointer kByVllmFinish[] = {&kVllmFinish};
inline constexpr LabelPointer kByVllmWaiting[] = {&kVllmWaiting};
inline constexpr LabelPointer kByVllmSource[] = {&kVllmSource};
inline constexpr LabelPointer kCacheConfigLabels[] = {&kBlockSize, &kCacheDtype, &kNumBlocks, &kPrefixCaching};

}  // namespace farspan::metrics

// SPDX-License-Identifier: Apache-2.0
// Bucket bounds of the histograms: vLLM's where its dashboards compare, finer ones where a small model would otherwise
// fall below the first bound. For metric_table.cc alone.
#pragma once

#include "server/metric_table.h"

namespace farspan::metrics {

inline constexpr double kFirstTokenBounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                               1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
inline constexpr double kVllmTokenBounds[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                              .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
inline constexpr double kVllmRequestBounds[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                                30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
inline constexpr double kStepTokensBounds[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
inline constexpr double kTokenBounds[] = {.0005, .001, .0015, .002, .003, .004, .006, .008, .01, .015,
                                          .02,   .03,  .04,   .06,  .1,   .2,   .4,   1,    2,   5};
inline constexpr double kRequestBounds[] = {.01, .025, .05, .1, .2, .3, .5, .8,  1,   1.5, 2,   2.5,  5,
                                            10,  15,   20,  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
inline constexpr double kStageBounds[] = {.001, .005, .01, .05, .1,  .2,  .5,  1,    2,
                                          5,    10,   30,  60,  120, 300, 600, 1800, 3000};
inline constexpr double kStepBounds[] = {.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5};
inline constexpr double kRatioBounds[] = {.01, .02, .05, .1, .15, .2, .3, .4, .5, .75, 1};
inline constexpr double kMebibyte = 1 << 20;
inline constexpr double kPeakBytesBounds[] = {
    kMebibyte,        2 * kMebibyte,    4 * kMebibyte,     8 * kMebibyte,     16 * kMebibyte,   32 * kMebibyte,
    64 * kMebibyte,   128 * kMebibyte,  256 * kMebibyte,   512 * kMebibyte,   1024 * kMebibyte, 2048 * kMebibyte,
    4096 * kMebibyte, 8192 * kMebibyte, 16384 * kMebibyte, 32768 * kMebibyte, 65536 * kMebibyte};
inline constexpr double kBatchRequestsBounds[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
inline constexpr double kBatchPoliciesBounds[] = {1, 2, 3, 4, 6, 8};
inline constexpr double kDivergenceBounds[] = {0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096};
inline constexpr double kSamplesBounds[] = {1, 2, 5, 10, 20};
inline constexpr double kPreemptionsBounds[] = {1, 2, 3, 4, 5, 10, 20};

inline constexpr BucketList kFirstToken = {"first token", kFirstTokenBounds};
inline constexpr BucketList kVllmToken = {"vLLM's token", kVllmTokenBounds};
inline constexpr BucketList kVllmRequestTime = {"vLLM's request", kVllmRequestBounds};
inline constexpr BucketList kStepTokens = {"step tokens", kStepTokensBounds};
inline constexpr BucketList kToken = {"token", kTokenBounds};
inline constexpr BucketList kRequestTime = {"request", kRequestBounds};
inline constexpr BucketList kStage = {"stage", kStageBounds};
inline constexpr BucketList kStep = {"step", kStepBounds};
inline constexpr BucketList kRatio = {"ratio", kRatioBounds};
inline constexpr BucketList kPeakBytes = {"peak bytes", kPeakBytesBounds};
inline constexpr BucketList kBatchRequests = {"batch requests", kBatchRequestsBounds};
inline constexpr BucketList kBatchPolicies = {"batch policies", kBatchPoliciesBounds};
inline constexpr BucketList kDivergence = {"divergence", kDivergenceBounds};
inline constexpr BucketList kSamples = {"samples", kSamplesBounds};
inline constexpr BucketList kPreemptions = {"preemptions", kPreemptionsBounds};
inline constexpr BucketList kContextTokens = {"context tokens", {}};

}  // namespace farspan::metrics

// SPDX-License-Identifier: Apache-2.0
#include "server/metric_series.h"

namespace farspan {
namespace {

Buckets PowersOfTwo(double first, double last) {
  Buckets buckets;
  for (double bound = first; bound <= last; bound *= 2) buckets.push_back(bound);
  return buckets;
}

}  // namespace

const Buckets& TimeToFirstTokenBuckets() {
  static const Buckets buckets = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                  1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return buckets;
}

const Buckets& VllmTokenBuckets() {
  static const Buckets buckets = {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
  return buckets;
}

const Buckets& VllmRequestBuckets() {
  static const Buckets buckets = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}

const Buckets& IterationTokensBuckets() {
  static const Buckets buckets = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
  return buckets;
}

Buckets OneTwoFiveBuckets(double limit) {
  Buckets buckets;
  for (double decade = 1; decade <= limit; decade *= 10) {
    for (const double step : {1, 2, 5}) {
      if (decade * step <= limit) buckets.push_back(decade * step);
    }
  }
  return buckets;
}

const Buckets& TokenBuckets() {
  static const Buckets buckets = {.0005, .001, .0015, .002, .003, .004, .006, .008, .01, .015,
                                  .02,   .03,  .04,   .06,  .1,   .2,   .4,   1,    2,   5};
  return buckets;
}

const Buckets& RequestBuckets() {
  static const Buckets buckets = {.01, .025, .05, .1, .2, .3, .5, .8,  1,   1.5, 2,   2.5,  5,
                                  10,  15,   20,  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}

const Buckets& StageBuckets() {
  static const Buckets buckets = {.001, .005, .01, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3000};
  return buckets;
}

const Buckets& StepBuckets() {
  static const Buckets buckets = {.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5};
  return buckets;
}

const Buckets& RatioBuckets() {
  static const Buckets buckets = {.01, .02, .05, .1, .15, .2, .3, .4, .5, .75, 1};
  return buckets;
}

const Buckets& PeakBytesBuckets() {
  static const Buckets buckets = PowersOfTwo(1 << 20, 64.0 * (1 << 30));
  return buckets;
}

const Buckets& BatchTokensBuckets() { return IterationTokensBuckets(); }

const Buckets& BatchPoliciesBuckets() {
  static const Buckets buckets = {1, 2, 3, 4, 6, 8};
  return buckets;
}

}  // namespace farspan

// SPDX-License-Identifier: Apache-2.0
// The registrations of this build's policies, one function a file of engine/attention/policies.
#pragma once

#include "engine/attention/registry.h"

namespace farspan {

PolicyRegistration DenseRegistration();
PolicyRegistration QuestRegistration();
PolicyRegistration WindowRegistration();

}  // namespace farspan

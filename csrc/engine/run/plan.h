// The steps of a graph, and the memory that they need.
#ifndef MICRONET_ENGINE_RUN_PLAN_H_
#define MICRONET_ENGINE_RUN_PLAN_H_

#include <vector>

#include "engine/format/weights.h"
#include "engine/graph/graph.h"
#include "engine/steps/arena.h"
#include "engine/steps/step.h"

namespace micronet::engine {

struct Plan {
  std::vector<StepPtr> steps;
  std::vector<Buffer> buffers;
};

// A function or quantizer that is the only reader of a layer is done with the layer; values of
// codes are made where a node wants them, once. Layers are references into `document`, weights are
// laid out. Raises Refused where a tensor is not as the document says.
Plan make_plan(const Document& document, const std::vector<Signal>& signals, size_t file_bytes,
               Tensors* tensors);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_RUN_PLAN_H_

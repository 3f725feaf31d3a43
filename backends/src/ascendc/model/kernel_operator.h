//! A model of the Ascend C basic API on an Atlas A2 (910B): kernels compiled against this header run on any machine, on
//! as many cores as they are launched on, and are told which rules of the chip they break.
//!
//! Written from facts of the public documentation; the parts:
//! - `numbers.h` element types, `report.h` settings and violations;
//! - `memory.h` shadow memory: undefined bytes, unordered accesses; `machine.h` cores, pipes and the order of execution;
//! - `tensor.h`, `queue.h`, `sync.h` tensors, buffers and synchronisation of the API;
//! - `copy.h`, `vector.h`, `reduce.h`, `select.h`, `cube.h` its instructions;
//! - `project.h` what operator projects have around kernels; `driver.h` runs the kernels of a job.
#pragma once
#include "numbers.h"
#include "report.h"
#include "memory.h"
#include "machine.h"
#include "tensor.h"
#include "sync.h"
#include "queue.h"
#include "copy.h"
#include "vector.h"
#include "reduce.h"
#include "select.h"
#include "cube.h"
#include "project.h"

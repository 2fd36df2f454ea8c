//! Messages and services of the Open Inference Protocol over gRPC.

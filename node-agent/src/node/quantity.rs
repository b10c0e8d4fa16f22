pub(super) use nestling_crds::quantity::nanos;

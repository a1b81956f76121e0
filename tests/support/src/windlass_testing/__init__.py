"""What tests of several parts share: real models, small and built once. No product code imports it."""

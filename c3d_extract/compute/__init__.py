"""Running a network on a device: choice of devices and precision, execution of batches."""

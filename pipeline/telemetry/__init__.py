"""What the process tells of itself: metrics, logs, health. No value of an event can enter any of them."""

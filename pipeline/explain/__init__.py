"""What `sealstream identity` answers about who is who, by `stages.reference`. Pure: events and rules → answers."""

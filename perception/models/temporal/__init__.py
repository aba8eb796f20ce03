"""What earlier moments of a drive add to the present one."""

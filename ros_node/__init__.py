"""The ROS 2 node: cameras in, timely answers out. What thinks is in modules without rclpy; the rest is wiring."""

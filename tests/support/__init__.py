"""What tests share: processes, servers, engines, made-up artifacts and pictures."""

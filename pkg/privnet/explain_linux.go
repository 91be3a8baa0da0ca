package privnet

// explain is to say what to do.
func explain(err error) error { return err }

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

// The contract of the first design, against which gas is measured. Its text is unchanged, faults and all; only the
// licence line, the pragma, the import and the name (PODVault there) were put around it. Never deploy it.

contract SeedPODVault {
    // POD Identity
    string public podId;
    address public owner;           // POD creator/developer
    address public agentWallet;    // POD's operational wallet
    
    // Financial State
    IERC20 public immutable usdc;
    uint256 public totalEarnings;
    uint256 public availableBalance;
    uint256 public totalTasks;
    
    // Task Management
    mapping(bytes32 => Task) public tasks;
    mapping(address => bool) public authorizedOperators;
    
    struct Task {
        uint256 amount;
        address creator;
        bool completed;
        uint256 timestamp;
        string metadata;
    }
    
    // Events
    event TaskCreated(bytes32 indexed taskId, uint256 amount, address creator);
    event TaskCompleted(bytes32 indexed taskId, uint256 amount);
    event EarningsWithdrawn(uint256 amount, address recipient);
    
    constructor(
        string memory _podId,
        address _owner,
        address _agentWallet,
        address _usdc
    ) {
        podId = _podId;
        owner = _owner;
        agentWallet = _agentWallet;
        usdc = IERC20(_usdc);
    }
    
    function createTask(bytes32 taskId, uint256 amount, string memory metadata) 
        external {
        require(tasks[taskId].amount == 0, "Task already exists");
        require(usdc.transferFrom(msg.sender, address(this), amount), "Transfer failed");
        
        tasks[taskId] = Task({
            amount: amount,
            creator: msg.sender,
            completed: false,
            timestamp: block.timestamp,
            metadata: metadata
        });
        
        emit TaskCreated(taskId, amount, msg.sender);
    }
    
    function completeTask(bytes32 taskId) external {
        require(msg.sender == agentWallet || authorizedOperators[msg.sender], "Unauthorized");
        
        Task storage task = tasks[taskId];
        require(!task.completed, "Task already completed");
        require(task.amount > 0, "Task does not exist");
        
        task.completed = true;
        availableBalance += task.amount;
        totalEarnings += task.amount;
        totalTasks++;
        
        emit TaskCompleted(taskId, task.amount);
    }
    
    function withdraw(address recipient, uint256 amount) external {
        require(msg.sender == owner, "Only owner can withdraw");
        require(amount <= availableBalance, "Insufficient balance");
        
        availableBalance -= amount;
        require(usdc.transfer(recipient, amount), "Transfer failed");
        
        emit EarningsWithdrawn(amount, recipient);
    }
}
